// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/io/process_identity.h"

namespace plinth::core::io {

/// What a lock file holds: a line of JSON that says who holds it, and a line of 20 digits, its
/// heartbeat, which alone is rewritten in place.
struct LockRecord {
    ProcessIdentity holder;
    std::string token;   ///< 32 hexadecimal digits, random: no two locks have the same
    uint64_t beats = 0;  ///< since it was taken

    std::string encode() const;
    /// Where the heartbeat begins in `encode()`, and its bytes.
    size_t beats_offset() const;
    static std::string encode_beats(uint64_t beats);
    /// Empty for anything that `encode` does not write.
    static std::optional<LockRecord> parse(std::string_view bytes);
};

/// 128 random bits as 32 hexadecimal digits.
std::string new_token();

}  // namespace plinth::core::io
