// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/simd.h"

namespace plinth {

/// Philox's multipliers, and by how much its key grows from one round to the next.
inline constexpr std::array<uint32_t, 2> philox_multiplier{0xD2511F53u, 0xCD9E8D57u};
inline constexpr std::array<uint32_t, 2> philox_key_step{0x9E3779B9u, 0xBB67AE85u};
inline constexpr int philox_rounds = 10;

/// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four
/// random words as a pure function of a counter and a key. There is no state to save, and any
/// element's numbers can be computed anywhere.
PLINTH_HOST_DEVICE inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter,
                                                         std::array<uint32_t, 2> key) {
    for (int round = 0; round < philox_rounds; ++round) {
        const uint64_t a = uint64_t{philox_multiplier[0]} * counter[0];
        const uint64_t b = uint64_t{philox_multiplier[1]} * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
        key = {key[0] + philox_key_step[0], key[1] + philox_key_step[1]};
    }
    return counter;
}

/// Names one stream of random numbers: (seed, purpose, step). The same key gives the same numbers
/// on every rank.
struct RandomKey {
    std::array<uint32_t, 2> key{};

    RandomKey() = default;
    RandomKey(uint64_t seed, std::string_view purpose, uint64_t step = 0)
        : RandomKey(stem_of(seed, purpose), step) {}
    /// The same from stem_of(seed, purpose).
    PLINTH_HOST_DEVICE RandomKey(uint64_t stem, uint64_t step) {
        const uint64_t hash = mix(stem ^ step);
        key = {static_cast<uint32_t>(hash), static_cast<uint32_t>(hash >> 32)};
    }
    /// FNV-1a over the name, then mixed with the seed (and later the step) by splitmix64.
    static uint64_t stem_of(uint64_t seed, std::string_view purpose) {
        uint64_t hash = 0xcbf29ce484222325ull;
        for (char c : purpose)
            hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
        return mix(hash ^ mix(seed));
    }

    /// Four words for quadruple `index` of item `item` (a global sample, or 0).
    PLINTH_HOST_DEVICE std::array<uint32_t, 4> words(uint64_t index, uint64_t item = 0) const {
        return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                       static_cast<uint32_t>(item), static_cast<uint32_t>(item >> 32)},
                      key);
    }

    PLINTH_HOST_DEVICE static uint64_t mix(uint64_t x) {
        x += 0x9e3779b97f4a7c15ull;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
        return x ^ (x >> 31);
    }
};

}  // namespace plinth
