// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/runtime/stream.h"

namespace plinth::test {

/// Runs `compute(stream)`, which returns values, with 1 to 8 threads: the numbers of threads that
/// do not give the bytes of one.
template <typename Compute>
std::vector<int> threads_with_other_bits(Compute&& compute) {
    Stream one(1);
    const auto expected = compute(one);
    std::vector<int> found;
    for (int threads = 2; threads <= 8; ++threads) {
        Stream stream(threads);
        const auto values = compute(stream);
        if (values.size() != expected.size() ||
            std::memcmp(values.data(), expected.data(), values.size() * sizeof(*values.data())) !=
                0)
            found.push_back(threads);
    }
    return found;
}

template <typename Compute>
void expect_threads_do_not_change_bits(Compute&& compute, const std::string& what = "") {
    const auto found = threads_with_other_bits(compute);
    EXPECT_TRUE(found.empty()) << what << ": other bits with " << fmt::format("{}", found)
                               << " threads";
}

/// For mutants, whose sums are cut by the number of threads: the comparison must see it.
template <typename Compute>
void expect_threads_change_bits(Compute&& mutant, const std::string& what = "") {
    EXPECT_FALSE(threads_with_other_bits(mutant).empty()) << what << ": no difference seen";
}

}  // namespace plinth::test
