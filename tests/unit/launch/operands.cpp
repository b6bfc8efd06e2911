// SPDX-License-Identifier: Apache-2.0
#include "launch/operands.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace plinth::launch {
namespace {

using Paths = std::vector<std::string>;

const Operands::Rules rules{.least = 1, .most = 2, .settings = {{"key", "loss"}, {"svg", ""}}};

TEST(Operands, PathsAndSettingsInAnyOrder) {
    const Operands operands({"svg=a=b.svg", "one", "two"}, rules);
    EXPECT_EQ(operands.paths(), (Paths{"one", "two"}));
    EXPECT_EQ(operands.setting("svg"), "a=b.svg");
    EXPECT_EQ(operands.setting("key"), "loss");
}

TEST(Operands, PathsMayHoldAnEqualsSign) {
    EXPECT_EQ(Operands({"./key=1"}, rules).paths(), Paths{"./key=1"});
}

TEST(Operands, MistakesAreNamed) {
    test::expect_error(
        ErrorKind::config,
        [] {
            Operands({"one", "kei=lr"}, rules);
        },
        "kei=lr", "mean 'key'");
    test::expect_error(
        ErrorKind::config, [] { Operands({"key=lr"}, rules); }, "0 paths");
    test::expect_error(
        ErrorKind::config,
        [] {
            Operands({"a", "b", "c"}, rules);
        },
        "3 paths", "1 to 2");
}

}  // namespace
}  // namespace plinth::launch
