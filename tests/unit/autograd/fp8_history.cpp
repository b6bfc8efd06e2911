// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/autograd/delayed_scaling.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using core::Fp8History;
using core::Fp8Role;
using core::Tensor;

std::vector<float> step(float of_a, float of_b) {
    return {of_a, 2 * of_a, 3 * of_a, of_b, 2 * of_b, 3 * of_b};
}

class Fp8HistoryTest : public testing::Test {
  protected:
    Fp8History history_of(std::vector<std::string> weights) {
        return {std::move(weights), allocator_, stream_};
    }
    void push(Fp8History& history, const std::vector<float>& largest) {
        const auto n = static_cast<int64_t>(largest.size());
        Tensor words = Tensor::empty({n + 1}, DType::i64, allocator_);
        kernels::fp8_history_words(words.out(), Tensor::of(largest, {n}, allocator_).in(), stream_);
        history.push(words.in(), {}, stream_);
    }
    /// By the scale; 0 where nothing is known.
    float largest(const Fp8History& history, size_t tensor) {
        Tensor scales =
                   Tensor::empty({static_cast<int64_t>(history.tensors())}, DType::f32, allocator_),
               lasts = Tensor::empty({1}, DType::i64, allocator_);
        history.scales(scales.out(), lasts.out(), stream_);
        const auto role = static_cast<Fp8Role>(tensor % core::fp8_roles);
        return scales.values<float>()[tensor] * kernels::largest_of(core::format_of(role));
    }

    CachingAllocator allocator_{host_memory()};
    Stream stream_{1};
};

TEST_F(Fp8HistoryTest, RemembersTheLargestOfTheLastSteps) {
    Fp8History history = history_of({"a", "b"});
    EXPECT_EQ(history.tensors(), 6u);
    const size_t input = history.index_of("a", Fp8Role::input),
                 gradient = history.index_of("b", Fp8Role::gradient);
    EXPECT_EQ(largest(history, input), 0.0f);
    push(history, step(9.0f, 1.0f));
    for (size_t i = 1; i < Fp8History::length; ++i)
        push(history, step(1.0f, static_cast<float>(i)));
    EXPECT_FLOAT_EQ(largest(history, input), 9.0f);
    EXPECT_FLOAT_EQ(largest(history, gradient), 45.0f);
    push(history, step(2.0f, 0.5f));  // the first is forgotten
    EXPECT_FLOAT_EQ(largest(history, input), 2.0f);
    EXPECT_FLOAT_EQ(largest(history, gradient), 45.0f);
}

TEST_F(Fp8HistoryTest, ItsTextIsThatOfTheFormat) {
    Fp8History history = history_of({"a", "b"});
    EXPECT_EQ(history.text(stream_), "weights 2\nsteps 0\na\nb\n");
    push(history, {1.0f, 2.0f, 0.0f, 0.5f, 1e-44f, 3.0f});
    push(history, {4.0f, 4.0f, 4.0f, 4.0f, 4.0f, 4.0f});
    EXPECT_EQ(history.text(stream_),
              "weights 2\nsteps 2\n"
              "a 3f800000 40000000 0 40800000 40800000 40800000\n"
              "b 3f000000 7 40400000 40800000 40800000 40800000\n");
    for (size_t i = 0; i < Fp8History::length; ++i)
        push(history, step(8.0f, static_cast<float>(i)));
    const std::string text = history.text(stream_);
    EXPECT_TRUE(text.starts_with("weights 2\nsteps 16\na 41000000 41800000 41c00000 ")) << text;
    EXPECT_NE(text.find("\nb 0 0 0 3f800000 40000000 40400000 40000000 "), std::string::npos)
        << "oldest first: " << text;
    EXPECT_TRUE(text.ends_with(" 41700000 41f00000 42340000\n")) << text;
}

TEST_F(Fp8HistoryTest, ItsTextHoldsAllOfIt) {
    Fp8History history = history_of({"a", "b"});
    const std::string nothing = history.text(stream_);
    for (int i = 0; i < 20; ++i)
        push(history, step(1.0f / static_cast<float>(i + 3), 1e-40f));
    Fp8History other = history_of({"a", "b"});
    other.restore(history.text(stream_), "it", stream_);
    EXPECT_EQ(other.text(stream_), history.text(stream_));
    for (int more = 0; more < 20; ++more) {
        for (size_t i = 0; i < history.tensors(); ++i)
            EXPECT_EQ(largest(other, i), largest(history, i)) << more;
        for (Fp8History* each : {&history, &other})
            push(*each, step(0.1f / static_cast<float>(more + 3), 1e-40f));
        EXPECT_EQ(other.text(stream_), history.text(stream_)) << "the oldest goes first in both";
    }
    push(other, step(100.0f, 0.0f));
    EXPECT_NE(other.text(stream_), history.text(stream_));
    other.restore(nothing, "it", stream_);
    EXPECT_EQ(largest(other, 0), 0.0f);
    EXPECT_EQ(other.text(stream_), nothing);
}

TEST_F(Fp8HistoryTest, WhatIsNoHistoryOfTheseWeightsIsRefused) {
    Fp8History history = history_of({"a", "b"});
    push(history, step(1.0f, 2.0f));
    const std::string text = history.text(stream_);
    const auto refuse = [&](const std::string& bad, const char* what) {
        expect_error(
            ErrorKind::io, [&] { history.restore(bad, "step-12", stream_); }, "step-12",
            "train.fp8", what);
        EXPECT_EQ(history.text(stream_), text) << "it was changed";
    };
    refuse("", "head");
    refuse("weights 2\nsteps 17\n", "head");
    refuse(history_of({"a"}).text(stream_), "of 1 weights");
    refuse(history_of({"a", "c"}).text(stream_), "'c'");
    refuse(text.substr(0, text.size() / 2), "");
    refuse("weights 2\nsteps 1\na 1 2 3\nb 1 2 7f800000\n", "b");
    expect_error(
        ErrorKind::internal, [&] { history.index_of("c", Fp8Role::weight); }, "c");
}

}  // namespace
}  // namespace plinth::test
