// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/io/file.h"

namespace plinth::core::data::format {

// The .idx file: magic, u64 version, u8 dtype code, u64 sequences N, u64 document entries D, then
// i32 lengths[N], i64 byte offsets[N], i64 first sequence of each document[D]. The arrays are not
// aligned.
inline constexpr std::array<char, 9> kMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
inline constexpr uint64_t kVersion = 1;
inline constexpr uint8_t kInt32 = 4;
inline constexpr uint8_t kUint16 = 8;
inline constexpr uint64_t kHeaderBytes = 34;

/// Calls body(index, value) for `count` values of an array that begins at byte `offset`, through a
/// bounded buffer.
template <typename T, typename Body>
void for_each(const io::ReadableFile& file, uint64_t offset, int64_t count, Body&& body) {
    constexpr int64_t kValues = 1 << 16;
    std::vector<T> values(static_cast<size_t>(std::min(count, kValues)));
    for (int64_t done = 0; done < count; done += kValues) {
        const auto part =
            std::span(values).first(static_cast<size_t>(std::min(count - done, kValues)));
        file.read_at(offset + static_cast<uint64_t>(done) * sizeof(T),
                     std::as_writable_bytes(part));
        for (size_t i = 0; i < part.size(); ++i)
            body(done + static_cast<int64_t>(i), part[i]);
    }
}

}  // namespace plinth::core::data::format
