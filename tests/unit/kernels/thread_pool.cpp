// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/thread_pool.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "kernels/runtime/stream.h"
#include "tests/support/expect_error.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

TEST(ThreadPool, CallsEachChunkOnce) {
    for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads);
        EXPECT_EQ(pool.threads(), threads);
        for (const int64_t chunks : {0, 1, 2, 3, 7, 20011}) {
            std::vector<std::atomic<int>> calls(static_cast<size_t>(chunks));
            pool.run(chunks, [&](int64_t chunk) { ++calls[static_cast<size_t>(chunk)]; });
            for (const auto& count : calls)
                ASSERT_EQ(count, 1) << threads << " threads, " << chunks << " chunks";
        }
    }
    expect_error(
        ErrorKind::internal, [] { ThreadPool none(0); }, "at least one thread");
}

TEST(ThreadPool, ManyShortRunsInARow) {
    ThreadPool pool(3);
    std::atomic<int64_t> sum{0};
    for (int64_t run = 0; run < 5000; ++run)
        pool.run(run % 7, [&](int64_t chunk) { sum += chunk + 1; });
    int64_t expected = 0;
    for (int64_t run = 0; run < 5000; ++run)
        expected += (run % 7) * (run % 7 + 1) / 2;
    EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, RethrowsTheFirstExceptionAndGoesOn) {
    for (const int threads : {1, 4}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 20; ++round) {
            EXPECT_THROW(pool.run(100,
                                  [](int64_t chunk) {
                                      if (chunk % 10 == 3) throw std::runtime_error("chunk");
                                  }),
                         std::runtime_error);
            std::atomic<int> calls{0};
            pool.run(100, [&](int64_t) { ++calls; });
            EXPECT_EQ(calls, 100) << "an error of one run is no part of the next";
        }
    }
}

TEST(ThreadPool, PoolsNestWhereEachRankHasItsOwn) {
    ThreadPool ranks(3);
    std::atomic<int> calls{0};
    ranks.run(3, [&](int64_t) {
        ThreadPool pool(2);
        pool.run(50, [&](int64_t) { ++calls; });
    });
    EXPECT_EQ(calls, 150);
}

TEST(ParallelFor, TheCutDependsOnTheShapeAlone) {
    const auto ranges = [](int threads) {
        Stream stream(threads);
        std::vector<std::pair<int64_t, int64_t>> cut(4);
        parallel_for(stream, 100, 32, [&](int64_t begin, int64_t end) {
            cut.at(size_t(begin / 32)) = {begin, end};
        });
        return cut;
    };
    const std::vector<std::pair<int64_t, int64_t>> expected{{0, 32}, {32, 64}, {64, 96}, {96, 100}};
    for (const int threads : {1, 2, 3, 8})
        EXPECT_EQ(ranges(threads), expected);
}

/// Sums of `grain` values each, added in order.
std::vector<float> sum_in_chunks(Stream& stream, int64_t grain) {
    constexpr int64_t items = 10'007;
    std::vector<float> parts(static_cast<size_t>((items + grain - 1) / grain), 0.0f);
    parallel_for(stream, items, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            parts[static_cast<size_t>(begin / grain)] += 1.0f / static_cast<float>(i + 1);
    });
    float sum = 0.0f;
    for (const float part : parts)
        sum += part;
    return {sum};
}

TEST(ThreadPool, ASumInChunksOfTheShapeIsTheSameWithAnyThreads) {
    expect_threads_do_not_change_bits([](Stream& stream) { return sum_in_chunks(stream, 256); });
    // The mutant of every test that uses this comparison: chunks cut by the number of threads.
    expect_threads_change_bits(
        [](Stream& stream) { return sum_in_chunks(stream, 10'007 / stream.pool().threads() + 1); });
}

}  // namespace
}  // namespace plinth::test
