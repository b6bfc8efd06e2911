// SPDX-License-Identifier: Apache-2.0
#include "launch/sliding_windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::launch {
namespace {

// By hand: 11 tokens have targets 1 .. 10. Windows of 4 with stride 2 hold the targets 1-4, 3-6,
// 5-8, 7-10.
TEST(SlidingWindows, ByHand) {
    const SlidingWindows windows(11, 4, 2);
    ASSERT_EQ(windows.count(), 4);
    for (int64_t i = 0; i < 4; ++i) {
        EXPECT_EQ(windows[i].first, 2 * i);
        EXPECT_EQ(windows[i].scored, i == 0 ? 4 : 2);
    }
    EXPECT_THROW(windows[4], Error);
}

TEST(SlidingWindows, TheLastOneIsMovedBack) {
    const SlidingWindows windows(12, 4, 3);  // 11 targets: begins 0, 3, 6, and 7 instead of 9
    ASSERT_EQ(windows.count(), 4);
    EXPECT_EQ(windows[2].first, 6);
    EXPECT_EQ(windows[2].scored, 3);
    EXPECT_EQ(windows[3].first, 7);
    EXPECT_EQ(windows[3].scored, 1);
}

TEST(SlidingWindows, AShortRowIsOneWindow) {
    const SlidingWindows windows(3, 64, 64);
    EXPECT_EQ(windows.length(), 2);
    ASSERT_EQ(windows.count(), 1);
    EXPECT_EQ(windows[0].scored, 2);
}

/// How often each target is scored, and the least context of any that has a full window before it.
struct Coverage {
    std::vector<int> times;
    int64_t least_context = INT64_MAX;
};

Coverage coverage_of(const SlidingWindows& windows, int64_t tokens, int64_t extra) {
    Coverage result{std::vector<int>(static_cast<size_t>(tokens), 0)};
    for (int64_t i = 0; i < windows.count(); ++i) {
        const Window window = windows[i];
        const int64_t scored = std::min(windows.length(), window.scored + extra);
        for (int64_t t = windows.length() - scored; t < windows.length(); ++t) {
            ++result.times[static_cast<size_t>(window.first + t + 1)];
            if (i > 0) result.least_context = std::min(result.least_context, t + 1);
        }
    }
    return result;
}

TEST(SlidingWindows, EveryTargetCountsOnceWithItsContext) {
    for (int64_t tokens : {2, 3, 5, 8, 9, 16, 17, 100})
        for (int64_t length : {1, 2, 5, 8})
            for (int64_t stride = 1; stride <= length; ++stride) {
                const SlidingWindows windows(tokens, length, stride);
                const Coverage coverage = coverage_of(windows, tokens, 0);
                EXPECT_EQ(coverage.times.front(), 0);
                EXPECT_TRUE(std::all_of(coverage.times.begin() + 1, coverage.times.end(),
                                        [](int times) { return times == 1; }))
                    << tokens << " " << length << " " << stride;
                // One window alone leaves the bound at INT64_MAX.
                EXPECT_GT(coverage.least_context, length - stride);
            }
}

// The mutant: one target too many a window.
TEST(SlidingWindows, AScoredTargetTooManyIsNoticed) {
    const Coverage coverage = coverage_of(SlidingWindows(17, 8, 4), 17, 1);
    EXPECT_GT(*std::max_element(coverage.times.begin(), coverage.times.end()), 1);
}

TEST(SlidingWindows, ImpossibleOnesAreRefused) {
    EXPECT_THROW(SlidingWindows(1, 4, 4), Error);
    EXPECT_THROW(SlidingWindows(10, 4, 5), Error);
    EXPECT_THROW(SlidingWindows(10, 4, 0), Error);
}

}  // namespace
}  // namespace plinth::launch
