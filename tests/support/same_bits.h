// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/runtime/stream.h"

namespace plinth::test {

/// Runs `compute(stream)`, which returns values, with 1 to 8 threads and expects the same bytes.
template <typename Compute>
void expect_threads_do_not_change_bits(Compute&& compute) {
    Stream one(1);
    const auto expected = compute(one);
    for (int threads = 2; threads <= 8; ++threads) {
        Stream stream(threads);
        const auto values = compute(stream);
        ASSERT_EQ(values.size(), expected.size());
        EXPECT_EQ(
            0, std::memcmp(values.data(), expected.data(), values.size() * sizeof(*values.data())))
            << threads << " threads";
    }
}

}  // namespace plinth::test
