// SPDX-License-Identifier: Apache-2.0
#include "launch/environment.h"

#include <gtest/gtest.h>

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
