// SPDX-License-Identifier: Apache-2.0
#include "core/data/binary_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/data/unicode.h"
#include "core/io/compressed.h"

namespace plinth::core::data {

namespace {

constexpr size_t head_size = size_t{1} << 16;
constexpr double most_in_text = 0.3;

bool is_foreign_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    constexpr unsigned char escape = 0x1B, del = 0x7F;  // terminals' colours come with escapes
    return (byte < 0x20 && !(byte >= '\b' && byte <= '\r') && byte != escape) || byte == del;
}

/// The begin of the content, decompressed.
std::string head_of(io::FileSystem& files, const io::ReadableFile& file) {
    std::string head(head_size, '\0');
    const auto room = std::as_writable_bytes(std::span(head));
    size_t got = 0;
    if (io::detect_compression(file) == io::Compression::none) {
        got = static_cast<size_t>(std::min<uint64_t>(head.size(), file.size()));
        file.read_at(0, room.first(got));
    } else {
        const auto bytes = io::open_bytes(files.open_read(file.path()));
        for (size_t more = 1; more > 0 && got < head.size(); got += more)
            more = bytes->read(room.subspan(got));
    }
    head.resize(got);
    return head;
}

}  // namespace

double share_of_no_text(std::string_view bytes) {
    if (bytes.empty()) return 0.0;
    const auto all = static_cast<double>(bytes.size());
    size_t count = 0;
    while (!bytes.empty()) {
        const std::string_view valid = bytes.substr(0, valid_utf8_prefix(bytes));
        count += static_cast<size_t>(std::ranges::count_if(valid, is_foreign_control));
        bytes.remove_prefix(valid.size());
        if (bytes.empty()) break;
        const Utf8Sequence next = next_utf8_sequence(bytes);
        if (next.state == Utf8Sequence::State::invalid) count += next.length;
        bytes.remove_prefix(next.length);
    }
    return static_cast<double>(count) / all;
}

std::string why_binary(io::FileSystem& files, const io::ReadableFile& file) {
    const std::string head = head_of(files, file);
    const double share = share_of_no_text(head);
    if (share <= most_in_text) return "";
    const bool is_utf16 = head.starts_with("\xFF\xFE") || head.starts_with("\xFE\xFF");
    return fmt::format("{:.0f} % of its first {} bytes are control characters or not UTF-8{}",
                       100.0 * share, head.size(),
                       is_utf16 ? " (its byte-order mark is that of UTF-16)" : "");
}

}  // namespace plinth::core::data
