// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/philox.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace plinth::test {
namespace {

using Words = std::array<uint32_t, 4>;

/// The known answers that Random123 publishes for philox4x32-10.
TEST(Philox, PublishedVectors) {
    EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
              (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, IndexAndItemFillTheCounter) {
    RandomKey key;
    key.key = {0xa4093822, 0x299f31d0};
    EXPECT_EQ(key.words(0x85a308d3243f6a88, 0x0370734413198a2e),
              (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomKey, SeedPurposeAndStepAllCount) {
    std::set<std::array<uint32_t, 2>> keys;
    for (const uint64_t seed : {0, 1, 2})
        for (const std::string purpose : {"", "a", "b", "ab", "ba"})
            for (const uint64_t step : {0, 1, 2})
                keys.insert(RandomKey(seed, purpose, step).key);
    EXPECT_EQ(keys.size(), 3u * 5u * 3u);
    EXPECT_EQ(RandomKey(7, "init.x", 3).key, RandomKey(7, "init.x", 3).key);
}

}  // namespace
}  // namespace plinth::test
