// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/format.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <random>

#include "checkpoints/checkpoint.h"
#include "core/io/crc32c.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

static_assert(std::endian::native == std::endian::little,
              "superblocks and tensor bytes are little endian");

namespace {

constexpr char magic[] = "PLINTHCK";  // 8 bytes in the file, no terminator

// Byte offsets of a superblock's fields.
constexpr size_t version_at = 8, kind_at = 12, place_at = 16, number_at = 20, size_at = 24,
                 run_at = 32, step_at = 48, attempt_at = 56, crc_at = 60;

template <typename T>
void put(std::array<std::byte, superblock_bytes>& block, size_t at, T value) {
    std::memcpy(block.data() + at, &value, sizeof value);
}

template <typename T>
T take(std::span<const std::byte> block, size_t at) {
    T value;
    std::memcpy(&value, block.data() + at, sizeof value);
    return value;
}

unsigned hex_value(char digit) {
    return static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

bool is_hex(std::string_view text, size_t digits) {
    return text.size() == digits &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::array<std::byte, 16> run_bytes(const std::string& run_id) {
    CHECK(is_hex(run_id, 32), "a run id is 32 hex digits, got '{}'", run_id);
    std::array<std::byte, 16> bytes;
    for (size_t i = 0; i < bytes.size(); ++i)
        bytes[i] =
            static_cast<std::byte>(hex_value(run_id[2 * i]) * 16 + hex_value(run_id[2 * i + 1]));
    return bytes;
}

std::string run_text(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes)
        text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    return text;
}

const char* text_of(Place place) {
    return place == Place::begin ? "first" : "last";
}

Superblock decode(std::span<const std::byte> bytes) {
    Superblock block;
    block.kind = static_cast<FileKind>(take<uint32_t>(bytes, kind_at));
    block.file_number = take<uint32_t>(bytes, number_at);
    block.file_size = take<uint64_t>(bytes, size_at);
    block.origin = {run_text(bytes.subspan(run_at, 16)), take<uint64_t>(bytes, step_at),
                    take<uint32_t>(bytes, attempt_at)};
    return block;
}

}  // namespace

std::string Origin::text() const {
    return fmt::format("run {}, step {}, attempt {}", run_id, step, attempt);
}

std::array<std::byte, superblock_bytes> encode(const Superblock& block, Place place) {
    CHECK(block.origin.attempt <= std::numeric_limits<uint32_t>::max(), "attempt {} of step {}",
          block.origin.attempt, block.origin.step);
    std::array<std::byte, superblock_bytes> bytes{};
    std::memcpy(bytes.data(), magic, 8);
    put(bytes, version_at, format_version);
    put(bytes, kind_at, static_cast<uint32_t>(block.kind));
    put(bytes, place_at, static_cast<uint32_t>(place));
    put(bytes, number_at, block.file_number);
    put(bytes, size_at, block.file_size);
    put(bytes, run_at, run_bytes(block.origin.run_id));
    put(bytes, step_at, block.origin.step);
    put(bytes, attempt_at, static_cast<uint32_t>(block.origin.attempt));
    put(bytes, crc_at, core::io::crc32c(0, std::span(bytes).first(crc_at)));
    return bytes;
}

void check_superblock(std::span<const std::byte> bytes, Place place, const Superblock& expected,
                      const std::string& path) {
    REQUIRE(checkpoint,
            bytes.size() == superblock_bytes && std::memcmp(bytes.data(), magic, 8) == 0,
            "{}: the {} block is not a Plinth superblock: the file is damaged, cut or foreign",
            path, text_of(place));
    REQUIRE(checkpoint, core::io::crc32c(0, bytes.first(crc_at)) == take<uint32_t>(bytes, crc_at),
            "{}: the checksum of the {} block is wrong: the file is damaged", path, text_of(place));
    const auto version = take<uint32_t>(bytes, version_at);
    check_version(version, path);
    const Superblock found = decode(bytes);
    REQUIRE(checkpoint, found.origin == expected.origin, "{}: belongs to {} but {} is wanted", path,
            found.origin.text(), expected.origin.text());
    REQUIRE(checkpoint,
            found == expected && take<uint32_t>(bytes, place_at) == static_cast<uint32_t>(place),
            "{}: the {} block describes another file (kind {}, number {}, {} bytes; wanted kind "
            "{}, number {}, {} bytes)",
            path, text_of(place), static_cast<uint32_t>(found.kind), found.file_number,
            found.file_size, static_cast<uint32_t>(expected.kind), expected.file_number,
            expected.file_size);
}

std::string render(const Commit& commit) {
    std::string text =
        fmt::format("plinth checkpoint {}\nrun {}\nstep {}\nattempt {}\nmanifest {} {}\n",
                    format_version, commit.origin.run_id, commit.origin.step, commit.origin.attempt,
                    commit.manifest_size, commit.manifest_hash);
    const uint32_t crc = core::io::crc32c(0, std::as_bytes(std::span(text)));
    return text + fmt::format("crc32c {:08x}\n", crc);
}

namespace {

/// Takes "KEY VALUE<end>" off the front of `text`; empty when it is not there.
std::string_view field(std::string_view& text, std::string_view key, char end) {
    if (!text.starts_with(key)) return {};
    const size_t stop = text.find(end, key.size());
    if (stop == std::string_view::npos) return {};
    const std::string_view value = text.substr(key.size(), stop - key.size());
    text.remove_prefix(stop + 1);
    return value;
}

std::optional<uint64_t> number(std::string_view text) {
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size() || text.empty()) return {};
    return value;
}

}  // namespace

Commit parse_commit(std::string_view text, const std::string& path) {
    std::string_view rest = text;
    const auto version = number(field(rest, "plinth checkpoint ", '\n'));
    const auto sealed = text.size() < 16 ? std::string_view() : text.substr(0, text.size() - 16);
    const std::string seal =
        fmt::format("crc32c {:08x}\n", core::io::crc32c(0, std::as_bytes(std::span(sealed))));
    REQUIRE(checkpoint, version && text.ends_with(seal),
            "{}: damaged or not a commit record (its checksum does not hold)", path);
    check_version(*version, path);
    Commit commit;
    commit.origin.run_id = field(rest, "run ", '\n');
    const auto step = number(field(rest, "step ", '\n'));
    const auto attempt = number(field(rest, "attempt ", '\n'));
    const auto size = number(field(rest, "manifest ", ' '));
    commit.manifest_hash = field(rest, "", '\n');
    commit.origin.step = step.value_or(0);
    commit.origin.attempt = attempt.value_or(0);
    commit.manifest_size = size.value_or(0);
    REQUIRE(checkpoint,
            step && attempt && size && is_hex(commit.origin.run_id, 32) &&
                is_hex(commit.manifest_hash, 32) && render(commit) == text,
            "{}: damaged or not a commit record", path);
    return commit;
}

std::string data_name(uint64_t number) {
    return fmt::format("data-{:05}.bin", number);
}
std::string index_name(uint64_t number) {
    return fmt::format("data-{:05}.index", number);
}

std::string folder_name(uint64_t step, uint64_t attempt) {
    return fmt::format("step-{:012}.attempt-{:04}", step, attempt);
}

std::optional<FolderName> parse_folder_name(std::string_view name) {
    std::string_view rest = name;
    const auto step = number(field(rest, "step-", '.'));
    if (!step || !rest.starts_with("attempt-")) return {};
    const auto attempt = number(rest.substr(8));
    if (!attempt || folder_name(*step, *attempt) != name) return {};
    return FolderName{*step, *attempt};
}

std::string parent_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

void check_version(uint64_t version, const std::string& path) {
    if (version == format_version) return;
    throw Refused(fmt::format("{}: written in checkpoint format {}, and this program reads format "
                              "{}: use the program that wrote it, or a newer one",
                              path, version, format_version),
                  __FILE__, __LINE__);
}

void check_run_id(const std::string& run_id, const std::string& where) {
    REQUIRE(checkpoint, is_hex(run_id, 32), "{}: a run id is 32 hex digits, got '{}'", where,
            run_id);
}

void check_side_name(const std::string& name, const std::string& where) {
    const char* allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    REQUIRE(checkpoint,
            !name.empty() && name.size() <= 100 && name.front() != '.' &&
                name.find_first_not_of(allowed) == std::string::npos,
            "{}: '{}' cannot name a file in a checkpoint (letters, digits, '.', '_', '-', at most "
            "100, no leading dot)",
            where, name);
}

std::string new_run_id() {
    std::random_device device;
    return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

}  // namespace plinth::checkpoints
