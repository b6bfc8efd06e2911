// SPDX-License-Identifier: Apache-2.0
// Captured work of a CPU stream; that of a device: tests/gpu/graph.cpp.
#include "kernels/runtime/graph.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/add.h"
#include "kernels/matmul.h"
#include "kernels/runtime/stream.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

View view_of(std::array<float, 4>& values) {
    return {values.data(), DType::f32, {4}};
}

TEST(Graph, KeepsKernelsAndCopiesAndDoesThemWhenItIsLaunched) {
    Stream stream(2);
    std::array<float, 4> a{1, 2, 3, 4}, b{10, 20, 30, 40}, sum{}, copied{};
    const auto graph = stream.capture([&] {
        kernels::add(view_of(sum), view_of(a), view_of(b), stream);
        stream.copy(copied.data(), sum.data(), sizeof(sum));
        stream.set_zero(sum.data(), sizeof(float));
        EXPECT_TRUE(stream.is_capturing());
    });
    EXPECT_FALSE(stream.is_capturing());
    EXPECT_EQ(graph->size(), 3u);
    EXPECT_EQ(sum, (std::array<float, 4>{})) << "nothing is done by the capture";
    graph->launch();
    EXPECT_EQ(copied, (std::array<float, 4>{11, 22, 33, 44}));
    EXPECT_EQ(sum[0], 0.0f);
    a[3] = 5.0f;  // the same addresses, other content
    graph->launch();
    EXPECT_EQ(copied, (std::array<float, 4>{11, 22, 33, 45}));
}

TEST(Graph, KeepsArgumentsAsTheyWere) {
    Stream stream(1);
    std::array<float, 4> values{};
    float number = 1.0f;
    const auto graph = stream.capture([&] { kernels::fill(view_of(values), number, stream); });
    number = 2.0f;
    graph->launch();
    EXPECT_EQ(values[0], 1.0f);
}

TEST(Graph, AWaitWithinItIsAnErrorAndEndsTheCapture) {
    Stream stream(1);
    std::array<float, 4> values{};
    expect_error(
        ErrorKind::internal, [&] { stream.capture([&] { stream.synchronize(); }); },
        "a wait for work that is captured");
    expect_error(
        ErrorKind::internal, [&] { stream.capture([&] { stream.record(); }); }, "captured");
    expect_error(
        ErrorKind::internal, [&] { stream.capture([&] { stream.capture([] {}); }); },
        "captured work within captured work");
    EXPECT_FALSE(stream.is_capturing());
    kernels::fill(view_of(values), 3.0f, stream);
    EXPECT_EQ(values[3], 3.0f) << "the stream works as before";
}

TEST(Graph, WhatGivesResultsToTheHostIsNoPartOfIt) {
    Stream stream(1);
    int64_t count = -1;
    const auto graph = stream.capture([&] { kernels::count_matmul_algorithms(count, stream); });
    EXPECT_EQ(graph->size(), 0u);
    EXPECT_GE(count, 0);
}

}  // namespace
}  // namespace plinth::test
