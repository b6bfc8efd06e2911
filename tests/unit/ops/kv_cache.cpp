// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class KvCacheTest : public OpTest {};

TEST_F(KvCacheTest, NewRowsGoBehindTheOldOnesAndNothingElseChanges) {
    // Two sequences of 1 and 2 old tokens, two new ones, two query heads and one key/value head of
    // width 3.
    const std::vector<float> qkv = random_values(2 * 2 * 12, "qkv");
    core::Tensor k = tensor(std::vector<float>(2 * 5 * 3, -1.0f), {2, 5, 3});
    core::Tensor v = tensor(std::vector<float>(2 * 5 * 3, -2.0f), {2, 5, 3});
    kernels::kv_cache_append(k.out(), v.out(), tensor(qkv, {2, 2, 12}).in(),
                             indices({1, 2}, {2}).in(), stream_);
    for (size_t b = 0; b < 2; ++b)
        for (size_t row = 0; row < 5; ++row)
            for (size_t i = 0; i < 3; ++i) {
                const size_t start = b + 1, at = (b * 5 + row) * 3 + i;
                const bool is_new = row >= start && row < start + 2;
                const size_t source = (b * 2 + (row - start)) * 12 + 6 + i;
                EXPECT_EQ(k.values<float>()[at], is_new ? qkv[source] : -1.0f) << b << row << i;
                EXPECT_EQ(v.values<float>()[at], is_new ? qkv[source + 3] : -2.0f) << b << row << i;
            }
}

TEST_F(KvCacheTest, AFullCacheIsRefused) {
    core::Tensor k = tensor(std::vector<float>(6), {1, 2, 3}),
                 v = tensor(std::vector<float>(6), {1, 2, 3});
    const auto qkv = tensor(random_values(2 * 12, "qkv"), {1, 2, 12});
    EXPECT_THROW(
        kernels::kv_cache_append(k.out(), v.out(), qkv.in(), indices({1}, {1}).in(), stream_),
        Error);
}

TEST_F(KvCacheTest, ThreadsDoNotChangeBits) {
    constexpr int64_t batch = 13, tokens = 5, width = 7, capacity = 20;
    const auto qkv =
        tensor(random_values(batch * tokens * 3 * width, "qkv"), {batch, tokens, 3 * width});
    const auto starts = indices({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {batch});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        const std::vector<float> old(batch * capacity * width, -1.0f);
        core::Tensor k = tensor(old, {batch, capacity, width}), v = tensor(old, k.shape());
        kernels::kv_cache_append(k.out(), v.out(), qkv.in(), starts.in(), stream);
        auto all = k.values<float>();
        const auto more = v.values<float>();
        all.insert(all.end(), more.begin(), more.end());
        return all;
    });
}

}  // namespace
}  // namespace plinth::test
