// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/runtime/philox.h"
#include "kernels/simd.h"

// Philox for many counters at once, for leaf loops of kernels.
namespace plinth::kernels::cpu {

/// The four words of consecutive quadruples, word by word: each loop over them becomes vector
/// instructions, which a loop over whole counters does not.
struct PhiloxBlock {
    static constexpr int64_t quadruples = 64;
    uint32_t word[4][quadruples];
};

/// The counters of an item's quadruples from `first` on.
PLINTH_INLINE void set_counters(PhiloxBlock& block, uint64_t first, uint64_t item) {
    for (int64_t q = 0; q < PhiloxBlock::quadruples; ++q) {
        const uint64_t index = first + static_cast<uint64_t>(q);
        block.word[0][q] = static_cast<uint32_t>(index);
        block.word[1][q] = static_cast<uint32_t>(index >> 32);
        block.word[2][q] = static_cast<uint32_t>(item);
        block.word[3][q] = static_cast<uint32_t>(item >> 32);
    }
}

/// RandomKey::words of an item's quadruples from `first` on.
PLINTH_INLINE void draw_words(PhiloxBlock& block, const RandomKey& key, uint64_t first,
                              uint64_t item) {
    set_counters(block, first, item);
    uint32_t *x0 = block.word[0], *x1 = block.word[1], *x2 = block.word[2], *x3 = block.word[3];
    uint32_t key0 = key.key[0], key1 = key.key[1];
    for (int round = 0; round < philox_rounds; ++round) {
#pragma omp simd
        for (int64_t q = 0; q < PhiloxBlock::quadruples; ++q) {
            const uint64_t a = uint64_t{philox_multiplier[0]} * x0[q];
            const uint64_t b = uint64_t{philox_multiplier[1]} * x2[q];
            x0[q] = static_cast<uint32_t>(b >> 32) ^ x1[q] ^ key0;
            x1[q] = static_cast<uint32_t>(b);
            x2[q] = static_cast<uint32_t>(a >> 32) ^ x3[q] ^ key1;
            x3[q] = static_cast<uint32_t>(a);
        }
        key0 += philox_key_step[0];
        key1 += philox_key_step[1];
    }
}

}  // namespace plinth::kernels::cpu
