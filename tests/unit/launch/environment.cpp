// SPDX-License-Identifier: Apache-2.0
#include "launch/environment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace plinth::launch {
namespace {

TEST(Environment, EveryPropertyIsKnown) {
    const Properties properties = environment_properties();
    for (const char* key : {"plinth", "compiler", "arch", "simd", "gemm", "bf16_products", "mpi"}) {
        ASSERT_TRUE(properties.contains(key)) << key;
        EXPECT_FALSE(properties.at(key).empty()) << key;
    }
    EXPECT_NE(version_text().find(properties.at("gemm")), std::string::npos);
}

TEST(Environment, PeakMemoryGrowsWithWhatIsTouched) {
    constexpr size_t bytes = 64 << 20;
    const int64_t before = peak_resident_bytes();
    EXPECT_GT(before, 1 << 20);
    const std::vector<char> pages(bytes, 1);
    EXPECT_GE(peak_resident_bytes(), std::max<int64_t>(before, bytes)) << pages.size();
}

TEST(Environment, TheSameMachineDoesNotDiffer) {
    EXPECT_EQ(environment_difference(environment_properties(), environment_properties()), "");
}

TEST(Environment, DifferencesAreNamedOneByOne) {
    EXPECT_EQ(environment_difference({{"simd", "a"}, {"gemm", "g"}, {"old", "x"}},
                                     {{"simd", "b"}, {"gemm", "g"}, {"new", "y"}}),
              "new: not recorded in the checkpoint, y now; old: x in the checkpoint, not recorded "
              "now; simd: a in the checkpoint, b now");
}

TEST(Environment, EveryPropertyCounts) {
    for (const auto& [key, value] : environment_properties()) {
        Properties elsewhere = environment_properties();
        elsewhere[key] += " other";
        EXPECT_EQ(environment_difference(elsewhere, environment_properties()).find(key + ": "), 0u);
    }
}

}  // namespace
}  // namespace plinth::launch
