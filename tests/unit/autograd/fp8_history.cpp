// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/autograd/delayed_scaling.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using core::Fp8History;
using core::Fp8Role;

std::vector<float> step(float of_a, float of_b) {
    return {of_a, 2 * of_a, 3 * of_a, of_b, 2 * of_b, 3 * of_b};
}

TEST(Fp8History, RemembersTheLargestOfTheLastSteps) {
    Fp8History history({"a", "b"});
    EXPECT_EQ(history.tensors(), 6u);
    const size_t input = history.index_of("a", Fp8Role::input),
                 gradient = history.index_of("b", Fp8Role::gradient);
    EXPECT_EQ(history.largest(input), 0.0f);
    history.push(step(9.0f, 1.0f));
    for (size_t i = 1; i < Fp8History::length; ++i)
        history.push(step(1.0f, static_cast<float>(i)));
    EXPECT_EQ(history.largest(input), 9.0f);
    EXPECT_EQ(history.largest(gradient), 45.0f);
    history.push(step(2.0f, 0.5f));  // the first is forgotten
    EXPECT_EQ(history.largest(input), 2.0f);
    EXPECT_EQ(history.largest(gradient), 45.0f);
}

TEST(Fp8History, ItsTextHoldsAllOfIt) {
    Fp8History history({"a", "b"});
    const std::string nothing = history.text();
    for (int i = 0; i < 20; ++i)
        history.push(step(1.0f / static_cast<float>(i + 3), 1e-40f));
    Fp8History other({"a", "b"});
    other.restore(history.text(), "it");
    EXPECT_EQ(other.text(), history.text());
    for (size_t i = 0; i < history.tensors(); ++i)
        EXPECT_EQ(other.largest(i), history.largest(i));
    other.push(step(100.0f, 0.0f));
    EXPECT_NE(other.text(), history.text());
    other.restore(nothing, "it");
    EXPECT_EQ(other.largest(0), 0.0f);
}

TEST(Fp8History, WhatIsNoHistoryOfTheseWeightsIsRefused) {
    Fp8History history({"a", "b"});
    history.push(step(1.0f, 2.0f));
    const std::string text = history.text();
    const auto refuse = [&](const std::string& bad, const char* what) {
        expect_error(
            ErrorKind::io, [&] { history.restore(bad, "step-12"); }, "step-12", "train.fp8", what);
        EXPECT_EQ(history.text(), text) << "it was changed";
    };
    refuse("", "head");
    refuse("weights 2\nsteps 17\n", "head");
    refuse(Fp8History({"a"}).text(), "of 1 weights");
    refuse(Fp8History({"a", "c"}).text(), "'c'");
    refuse(text.substr(0, text.size() / 2), "");
    refuse("weights 2\nsteps 1\na 1 2 3\nb 1 2 7f800000\n", "b");
    expect_error(
        ErrorKind::internal, [&] { history.index_of("c", Fp8Role::weight); }, "c");
}

}  // namespace
}  // namespace plinth::test
