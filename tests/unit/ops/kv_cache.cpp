// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include "tests/support/op_fixture.h"

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

}  // namespace
}  // namespace plinth::test
