// SPDX-License-Identifier: Apache-2.0
#include "core/data/token_shard.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/data/token_shard_format.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {
namespace {

constexpr int64_t kProbe = 64;  // documents looked at in one step of a search

/// The integer at a byte position of the header, which is not aligned.
template <typename T>
T field(std::span<const std::byte> header, size_t at) {
    T value;
    std::memcpy(&value, header.data() + at, sizeof value);
    return value;
}

}  // namespace

TokenShard::TokenShard(io::FileSystem& files, const std::string& path)
    : TokenShard(files.open_read(path + ".bin"), files.open_read(path + ".idx")) {}

TokenShard::TokenShard(std::unique_ptr<io::ReadableFile> bin, std::unique_ptr<io::ReadableFile> idx)
    : bin_(std::move(bin)), idx_(std::move(idx)) {
    read_header();
    const std::string& name = idx_->path();
    std::array<int64_t, 1> entry;
    const auto read_entry = [&](uint64_t at) {
        idx_->read_at(at, std::as_writable_bytes(std::span(entry)));
        return entry[0];
    };
    const auto last = static_cast<uint64_t>(documents_);
    REQUIRE(data, read_entry(documents_at()) == 0,
            "{}: the first document begins at sequence {}, not 0", name, entry[0]);
    REQUIRE(data, read_entry(documents_at() + 8 * last) == sequences_,
            "{}: the documents end at sequence {}, but there are {}", name, entry[0], sequences_);
    int64_t end = 0;
    if (sequences_ > 0) {
        const auto final = static_cast<uint64_t>(sequences_ - 1);
        int32_t length = 0;
        idx_->read_at(lengths_at() + 4 * final, std::as_writable_bytes(std::span(&length, 1)));
        const int64_t offset = read_entry(offsets_at() + 8 * final);
        const auto width = static_cast<int64_t>(size_of(dtype_));
        REQUIRE(data,
                length >= 0 && offset >= 0 && !__builtin_add_overflow(offset, length * width, &end),
                "{}: the last sequence has length {} and offset {}", name, length, offset);
    }
    REQUIRE(data, static_cast<uint64_t>(end) == bin_->size(),
            "{}: the last sequence ends at byte {} of {}, which has {} bytes: the two files do not "
            "belong together, or one is cut off",
            name, end, bin_->path(), bin_->size());
}

/// Sizes are checked with arithmetic that cannot overflow, before anything is read by them.
void TokenShard::read_header() {
    const std::string& name = idx_->path();
    const uint64_t size = idx_->size();
    REQUIRE(data, size >= format::kHeaderBytes, "{}: {} bytes are too few for the header of {}",
            name, size, format::kHeaderBytes);
    std::array<std::byte, format::kHeaderBytes> header;
    idx_->read_at(0, header);
    REQUIRE(data, std::memcmp(header.data(), format::kMagic.data(), format::kMagic.size()) == 0,
            "{}: not a token index (its first bytes are not MMIDIDX)", name);
    const auto version = field<uint64_t>(header, 9);
    REQUIRE(data, version == format::kVersion, "{}: index version {}, but only 1 is known", name,
            version);
    const auto code = field<uint8_t>(header, 17);
    REQUIRE(data, code == format::kUint16 || code == format::kInt32,
            "{}: token type code {}: only 8 (uint16) and 4 (int32) hold tokens", name, code);
    dtype_ = code == format::kUint16 ? DType::u16 : DType::i32;

    const auto sequences = field<uint64_t>(header, 18);
    const auto entries = field<uint64_t>(header, 26);
    uint64_t arrays = 0, documents = 0, expected = 0;
    const bool overflow = __builtin_mul_overflow(sequences, 12u, &arrays) ||
                          __builtin_mul_overflow(entries, 8u, &documents) ||
                          __builtin_add_overflow(arrays, documents, &expected) ||
                          __builtin_add_overflow(expected, format::kHeaderBytes, &expected);
    REQUIRE(data, !overflow && expected == size,
            "{}: {} sequences and {} document entries do not fit its size of {} bytes: the file is "
            "cut off, damaged, or of a multimodal set",
            name, sequences, entries, size);
    REQUIRE(data, entries >= 1, "{}: the document index is empty", name);
    sequences_ = static_cast<int64_t>(sequences);
    documents_ = static_cast<int64_t>(entries) - 1;
    REQUIRE(data, bin_->size() % size_of(dtype_) == 0,
            "{}: {} bytes are no whole number of {} tokens", bin_->path(), bin_->size(),
            name_of(dtype_));
    tokens_ = static_cast<int64_t>(bin_->size() / size_of(dtype_));
}

uint64_t TokenShard::lengths_at() const {
    return format::kHeaderBytes;
}
uint64_t TokenShard::offsets_at() const {
    return lengths_at() + 4 * static_cast<uint64_t>(sequences_);
}
uint64_t TokenShard::documents_at() const {
    return offsets_at() + 8 * static_cast<uint64_t>(sequences_);
}

void TokenShard::read_tokens(int64_t offset, std::span<int32_t> out) const {
    CHECK(offset >= 0 && offset <= tokens_ && static_cast<int64_t>(out.size()) <= tokens_ - offset,
          "tokens [{}, +{}) of {}, which has {}", offset, out.size(), path(), tokens_);
    if (dtype_ == DType::i32) {
        bin_->read_at(static_cast<uint64_t>(offset) * 4, std::as_writable_bytes(out));
        return;
    }
    std::array<uint16_t, 16384> narrow;
    for (size_t done = 0; done < out.size(); done += narrow.size()) {
        const auto part = std::span(narrow).first(std::min(narrow.size(), out.size() - done));
        bin_->read_at((static_cast<uint64_t>(offset) + done) * 2, std::as_writable_bytes(part));
        std::copy(part.begin(), part.end(), out.begin() + static_cast<ptrdiff_t>(done));
    }
}

std::vector<int64_t> TokenShard::starts_of(int64_t first, int64_t count) const {
    std::vector<int64_t> starts(static_cast<size_t>(count));
    idx_->read_at(documents_at() + 8 * static_cast<uint64_t>(first),
                  std::as_writable_bytes(std::span(starts)));
    std::vector<int64_t> offsets;
    int64_t begin = starts.front();
    REQUIRE(
        data,
        begin >= 0 && starts.back() <= sequences_ && std::is_sorted(starts.begin(), starts.end()),
        "{}: documents {} to {} are not in order: the file is damaged", idx_->path(), first,
        first + count);
    // Usually a document is one sequence, so that one read brings the offsets of all of them.
    const bool together = starts.back() - begin < 4 * kProbe;
    if (together) {
        offsets.resize(static_cast<size_t>(std::min(starts.back() + 1, sequences_) - begin));
        idx_->read_at(offsets_at() + 8 * static_cast<uint64_t>(begin),
                      std::as_writable_bytes(std::span(offsets)));
    } else {
        offsets.resize(1);
    }
    const auto width = static_cast<int64_t>(size_of(dtype_));
    for (int64_t& start : starts) {
        if (start == sequences_) {
            start = tokens_;
            continue;
        }
        if (!together)
            idx_->read_at(offsets_at() + 8 * static_cast<uint64_t>(start),
                          std::as_writable_bytes(std::span(offsets)));
        const int64_t offset = offsets[together ? static_cast<size_t>(start - begin) : 0];
        REQUIRE(data, offset >= 0 && offset % width == 0 && offset / width <= tokens_,
                "{}: sequence {} begins at byte {} of {}: the file is damaged", idx_->path(), start,
                offset, bin_->size());
        start = offset / width;
    }
    REQUIRE(data, std::is_sorted(starts.begin(), starts.end()),
            "{}: the sequences of documents {} to {} are not in order: the file is damaged",
            idx_->path(), first, first + count);
    return starts;
}

/// The last document that begins at or before the token. Document lengths vary little over long
/// stretches, so interpolation comes close at once; every second step halves, so that no file can
/// make the search slow.
int64_t TokenShard::document_of(int64_t token) const {
    int64_t low = 0, high = documents_;  // start(low) <= token < start(high)
    int64_t low_start = 0, high_start = tokens_;
    for (bool halve = false; high - low > 1; halve = !halve) {
        const double span = static_cast<double>(std::max<int64_t>(high_start - low_start, 1));
        const double share =
            halve ? 0.5 : std::clamp(static_cast<double>(token - low_start) / span, 0.0, 1.0);
        const int64_t guess = low + static_cast<int64_t>(share * static_cast<double>(high - low));
        const int64_t first = std::clamp(guess - kProbe / 2, low, std::max(low, high - kProbe));
        const auto starts = starts_of(first, std::min(kProbe, high - first));
        const auto after = std::upper_bound(starts.begin(), starts.end(), token);
        const int64_t below = first + (after - starts.begin());
        if (after != starts.end()) {
            high = below;
            high_start = *after;
        }
        if (after != starts.begin()) {
            low = below - 1;
            low_start = *std::prev(after);
        }
    }
    return low;
}

std::vector<DocumentStart> TokenShard::documents_in(int64_t begin, int64_t end) const {
    CHECK(begin >= 0 && begin < end && end <= tokens_, "tokens [{}, {}) of {}, which has {}", begin,
          end, path(), tokens_);
    REQUIRE(data, documents_ > 0, "{}: there are tokens but no documents", idx_->path());
    std::vector<DocumentStart> found;
    for (int64_t document = document_of(begin); document < documents_; document += kProbe) {
        const int64_t count = std::min(kProbe, documents_ - document);
        const auto starts = starts_of(document, count);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t start = starts[static_cast<size_t>(i)];
            REQUIRE(data, found.empty() ? start <= begin : start >= found.back().token,
                    "{}: document {} begins at token {}, out of order: the file is damaged",
                    idx_->path(), document + i, start);
            if (start >= end) return found;
            if (!found.empty() && found.back().token == start) found.pop_back();
            found.push_back({document + i, start});
        }
    }
    return found;
}

void TokenShard::verify_sequences() const {
    const auto width = static_cast<int64_t>(size_of(dtype_));
    constexpr int64_t kPart = 1 << 16;
    std::vector<int32_t> lengths(static_cast<size_t>(std::min(kPart, sequences_)));
    int64_t expected = 0;
    for (int64_t part = 0; part < sequences_; part += kPart) {
        const int64_t count = std::min(kPart, sequences_ - part);
        idx_->read_at(lengths_at() + 4 * static_cast<uint64_t>(part),
                      std::as_writable_bytes(std::span(lengths).first(static_cast<size_t>(count))));
        format::for_each<int64_t>(
            *idx_, offsets_at() + 8 * static_cast<uint64_t>(part), count,
            [&](int64_t i, int64_t offset) {
                const int32_t length = lengths[static_cast<size_t>(i)];
                REQUIRE(data, offset == expected && length >= 0,
                        "{}: sequence {} has length {} and begins at byte {} instead of {}",
                        idx_->path(), part + i, length, offset, expected);
                expected += length * width;
            });
    }
    REQUIRE(data, expected == tokens_ * width, "{}: the sequences end at byte {} of {}",
            idx_->path(), expected, tokens_ * width);
}

void TokenShard::verify_documents() const {
    int64_t before = 0;
    format::for_each<int64_t>(*idx_, documents_at(), documents_ + 1,
                              [&](int64_t document, int64_t sequence) {
                                  REQUIRE(data, sequence >= before && sequence <= sequences_,
                                          "{}: document {} begins at sequence {}, after {} of {}",
                                          idx_->path(), document, sequence, before, sequences_);
                                  before = sequence;
                              });
}

void TokenShard::verify_tokens(int64_t vocab_size) const {
    constexpr int64_t kPart = 1 << 16;
    std::vector<int32_t> tokens(static_cast<size_t>(std::min(kPart, tokens_)));
    for (int64_t part = 0; part < tokens_; part += kPart) {
        const auto piece =
            std::span(tokens).first(static_cast<size_t>(std::min(kPart, tokens_ - part)));
        read_tokens(part, piece);
        for (size_t i = 0; i < piece.size(); ++i)
            REQUIRE(data, piece[i] >= 0 && piece[i] < vocab_size,
                    "{}: token {} has the id {}, outside the vocabulary of {}", path(),
                    part + static_cast<int64_t>(i), piece[i], vocab_size);
    }
}

void TokenShard::verify(int64_t vocab_size) const {
    verify_sequences();
    verify_documents();
    verify_tokens(vocab_size);
}

namespace {
void verify_hash(io::FileSystem& files, const std::string& path, const std::string& expected,
                 const std::function<void(uint64_t bytes)>& on_read) {
    const auto file = files.open_read(path);
    io::Xxh3 hash;
    std::vector<std::byte> buffer(std::min<uint64_t>(file->size(), size_t{1} << 20));
    for (uint64_t done = 0; done < file->size(); done += buffer.size()) {
        const auto part =
            std::span(buffer).first(std::min<uint64_t>(buffer.size(), file->size() - done));
        file->read_at(done, part);
        hash.update(part);
        if (on_read) on_read(part.size());
    }
    const std::string found = io::to_hex(hash.digest64());
    REQUIRE(data, found == expected,
            "{}: its hash is {}, but the manifest says {}: the file was changed or damaged", path,
            found, expected);
}
}  // namespace

void verify_shard_hashes(io::FileSystem& files, const std::string& folder, const ShardEntry& entry,
                         const std::function<void(uint64_t bytes)>& on_read) {
    const std::string path = io::join(folder, entry.prefix);
    verify_hash(files, path + ".idx", entry.idx_xxh3, on_read);
    verify_hash(files, path + ".bin", entry.bin_xxh3, on_read);
}

void verify_shard(io::FileSystem& files, const std::string& folder, const ShardEntry& entry,
                  const DatasetManifest& manifest) {
    verify_shard_hashes(files, folder, entry);
    const std::string path = io::join(folder, entry.prefix);
    const TokenShard shard(files, path);
    REQUIRE(data, shard.tokens() == entry.tokens && shard.documents() == entry.documents,
            "{}: {} tokens in {} documents, but the manifest says {} in {}", path, shard.tokens(),
            shard.documents(), entry.tokens, entry.documents);
    shard.verify(manifest.vocab_size);
}

}  // namespace plinth::core::data
