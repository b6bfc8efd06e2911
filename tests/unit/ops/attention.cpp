// SPDX-License-Identifier: Apache-2.0
#include "core/ops/attention.h"

#include <cstring>

#include "tests/support/attention_oracle.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Tensor;
using core::ops::AttentionInputs;

class AttentionTest : public OpTest {
  protected:
    AttentionTest() { step_.step = 3; }

    AttentionInputs inputs(const AttentionCase& c) {
        AttentionInputs result;
        if (c.alibi) result.slopes = tensor(kernels::alibi_slopes(c.heads), {c.heads});
        if (c.documents) result.documents = indices(document_ids(c), {c.batch, c.tokens});
        std::vector<int64_t> samples;
        for (int64_t b = 0; b < c.batch; ++b)
            samples.push_back(first_sample + b);
        if (c.dropout > 0.0f) result.samples = Tensor::of(samples, {c.batch}, *allocator_);
        return result;
    }
    static kernels::Attention options(const AttentionCase& c) {
        return {.heads = c.heads,
                .kv_heads = c.kv_heads,
                .causal = c.causal,
                .window = c.window,
                .dropout = c.dropout};
    }
    Function function(const AttentionCase& c) {
        return [&c, in = inputs(c)](const std::vector<Tensor>& x) {
            return core::ops::attention(x[0], options(c), in, attention_dropout_name);
        };
    }
    static std::vector<float> values(const AttentionCase& c) {
        std::vector<float> qkv = random_values(c.batch * c.tokens * c.columns(), "qkv");
        for (float& value : qkv)
            value *= 3.0f;  // weights far from uniform
        return qkv;
    }

    void compare_with_oracle(DType dtype, double forward_tolerance, double backward_tolerance) {
        for (const AttentionCase& c : attention_test_cases) {
            SCOPED_TRACE(c.name);
            std::vector<float> x = values(c);
            std::vector<float> dy =
                random_values(c.batch * c.tokens * c.heads * c.width, "projection");
            if (dtype == DType::bf16) x = rounded_to_bf16(x), dy = rounded_to_bf16(dy);
            const Tensor qkv = tensor(x, {c.batch, c.tokens, c.columns()}, dtype);
            const AttentionOracle oracle(c, x);
            expect_close(run(function(c), {qkv}), oracle.forward(), forward_tolerance, "y");
            expect_close(gradients(function(c), {qkv}).inputs[0], oracle.backward(dy),
                         backward_tolerance, "dqkv");
        }
    }
};

TEST_F(AttentionTest, Fp32EqualsRowsOfSoftmaxInDouble) {
    compare_with_oracle(DType::f32, 2e-6, 1e-5);
}
TEST_F(AttentionTest, Bf16EqualsTheOracleOfRoundedInputs) {
    compare_with_oracle(DType::bf16, 4e-3, 3e-2);
}

TEST_F(AttentionTest, GradientsMatchFiniteDifferences) {
    const AttentionCase c{"differences", 2, 9, 4, 2, 5, true, true, true, 0.2f, 4};
    expect_gradients_match_differences(
        function(c), {tensor(random_values(2 * 9 * c.columns(), "x"), {2, 9, c.columns()})});
}

// A window that is one token wider or narrower, on both sides of the borders of blocks of keys.
TEST_F(AttentionTest, AnotherWindowIsSeen) {
    for (const int64_t window : {1, 23, 63, 64, 65, 100}) {
        const AttentionCase c{"window", 1, 150, 1, 1, 8, true, false, false, 0.0f, window};
        AttentionCase wider = c;
        ++wider.window;
        const std::vector<float> x = values(c), dy = random_values(150 * 8, "projection");
        const Tensor qkv = tensor(x, {1, 150, c.columns()});
        const auto y = run(function(c), {qkv}), other = run(function(wider), {qkv});
        for (int64_t t = 0; t < 150; ++t) {
            const auto row = [&](const auto& all) {
                return std::vector<float>(all.begin() + t * 8, all.begin() + (t + 1) * 8);
            };
            EXPECT_EQ(row(y) == row(other), t < window) << "token " << t << ", window " << window;
        }
    }
}

TEST_F(AttentionTest, AWindowThatHoldsAllTokensChangesNoBit) {
    const AttentionCase all{"all", 2, 131, 2, 1, 8};
    for (const int64_t window : {131, 1000}) {
        AttentionCase c = all;
        c.window = window;
        const Tensor qkv = tensor(values(c), {2, 131, c.columns()});
        EXPECT_EQ(run(function(c), {qkv}), run(function(all), {qkv}));
        EXPECT_EQ(gradients(function(c), {qkv}).inputs[0],
                  gradients(function(all), {qkv}).inputs[0]);
    }
}

TEST_F(AttentionTest, DropoutIsOffOutsideTraining) {
    const AttentionCase with{"with", 1, 40, 2, 2, 8, true, false, false, 0.5f};
    const AttentionCase without{"without", 1, 40, 2, 2, 8};
    const Tensor qkv = tensor(values(with), {1, 40, with.columns()});
    EXPECT_NE(run(function(with), {qkv}), run(function(without), {qkv}));
    training_ = false;
    EXPECT_EQ(run(function(with), {qkv}), run(function(without), {qkv}));
}

TEST_F(AttentionTest, DropoutOfASampleAndHeadIsTheSameInAnyBatchAndOnAnyRank) {
    const int64_t t = 20, k = 4;
    const std::vector<float> x = random_values(2 * t * 6 * k, "x");
    const auto rows = [&](int64_t b, int64_t heads, int64_t first_head) {
        std::vector<float> part;
        for (int64_t row = b * t; row < (b + 1) * t; ++row)
            for (int64_t third = 0; third < 3; ++third)
                for (int64_t i = 0; i < heads * k; ++i)
                    part.push_back(
                        x[static_cast<size_t>((row * 6 + third * 2 + first_head) * k + i)]);
        return part;
    };
    const auto attend = [&](const std::vector<float>& values_of, std::vector<int64_t> samples,
                            int64_t heads, int64_t first_head) {
        const auto batch = static_cast<int64_t>(samples.size());
        AttentionInputs in;
        in.samples = Tensor::of(samples, {batch}, *allocator_);
        return run(
            [&](const auto& inputs_of) {
                return core::ops::attention(
                    inputs_of[0],
                    {.heads = heads, .kv_heads = heads, .dropout = 0.5f, .first_head = first_head},
                    in, attention_dropout_name);
            },
            {tensor(values_of, {batch, t, 3 * heads * k})});
    };
    const auto whole = attend(x, {70, 71}, 2, 0);
    const auto alone = attend(rows(1, 2, 0), {71}, 2, 0);
    const auto second_head = attend(rows(1, 1, 1), {71}, 1, 1);
    const auto other_sample = attend(rows(1, 1, 1), {72}, 1, 1);
    for (int64_t i = 0; i < t; ++i)
        for (int64_t d = 0; d < k; ++d) {
            const double expected = whole[static_cast<size_t>(((t + i) * 2 + 1) * k + d)];
            EXPECT_EQ(alone[static_cast<size_t>((i * 2 + 1) * k + d)], expected);
            EXPECT_EQ(second_head[static_cast<size_t>(i * k + d)], expected);
        }
    EXPECT_NE(other_sample, second_head);
}

TEST_F(AttentionTest, ThreadsDoNotChangeBits) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (const AttentionCase& c : attention_test_cases) {
            const auto y_size = static_cast<size_t>(c.batch * c.tokens * c.heads * c.width);
            const Tensor qkv = tensor(values(c), {c.batch, c.tokens, c.columns()}, dtype);
            const Tensor dy = tensor(random_values(static_cast<int64_t>(y_size), "dy"),
                                     {c.batch, c.tokens, c.heads * c.width}, dtype);
            const AttentionInputs in = inputs(c);
            const kernels::AttentionMask mask{in.slopes.in(), in.documents.in(), in.samples.in()};
            std::vector<double> first;
            for (int threads = 1; threads <= 8; ++threads) {
                Stream stream(threads);
                Tensor y = tensor(std::vector<float>(y_size), dy.shape(), dtype);
                Tensor log_sum =
                    Tensor::empty({c.batch, c.heads, c.tokens}, DType::f32, *allocator_);
                Tensor dqkv = Tensor::empty(qkv.shape(), dtype, *allocator_);
                kernels::attention_forward(y.out(), log_sum.out(), qkv.in(), mask, options(c),
                                           stream);
                kernels::attention_backward(dqkv.out(), dy.in(), y.in(), log_sum.in(), qkv.in(),
                                            mask, options(c), stream);
                std::vector<double> all = to_doubles(y);
                for (const Tensor& more : {log_sum, dqkv})
                    for (double value : to_doubles(more))
                        all.push_back(value);
                if (first.empty()) first = all;
                EXPECT_EQ(0, std::memcmp(first.data(), all.data(), all.size() * sizeof(double)))
                    << threads << " threads, " << c.name;
            }
        }
}

/// What the test above must be able to see: keys and values whose gradients two threads sum apart,
/// each over half of the queries.
TEST_F(AttentionTest, GradientsSummedByThreadWouldHaveOtherBits) {
    const int64_t t = 192, width = 16;
    const kernels::Attention heads{.heads = 2, .kv_heads = 2};
    const Tensor qkv = tensor(random_values(t * 3 * width, "qkv"), {1, t, 3 * width});
    const std::vector<float> dy = random_values(t * width, "dy");
    Stream stream(1);
    Tensor y = Tensor::empty({1, t, width}, DType::f32, *allocator_);
    Tensor log_sum = Tensor::empty({1, 2, t}, DType::f32, *allocator_);
    kernels::attention_forward(y.out(), log_sum.out(), qkv.in(), {}, heads, stream);
    const auto gradient_of_queries = [&](int64_t begin, int64_t end) {
        std::vector<float> part(dy.size());
        std::copy(dy.begin() + begin * width, dy.begin() + end * width,
                  part.begin() + begin * width);
        Tensor dqkv = Tensor::empty(qkv.shape(), DType::f32, *allocator_);
        kernels::attention_backward(dqkv.out(), tensor(part, y.shape()).in(), y.in(), log_sum.in(),
                                    qkv.in(), {}, heads, stream);
        return to_doubles(dqkv);
    };
    const auto whole = gradient_of_queries(0, t), first = gradient_of_queries(0, t / 2),
               second = gradient_of_queries(t / 2, t);
    std::vector<double> summed_apart(whole.size());
    for (size_t i = 0; i < whole.size(); ++i)
        summed_apart[i] = static_cast<float>(first[i] + second[i]);
    expect_close(summed_apart, whole, 1e-5, "gradients");
    EXPECT_NE(summed_apart, whole);
}

TEST_F(AttentionTest, DocumentsInOneRowEqualDocumentsAlone) {
    const int64_t first = 70, second = 61, columns = 3 * 2 * 8;
    const std::vector<float> x = random_values((first + second) * columns, "x");
    const kernels::Attention heads{.heads = 2, .kv_heads = 2};
    AttentionInputs in;
    std::vector<int32_t> ids(static_cast<size_t>(first), 4);
    ids.resize(static_cast<size_t>(first + second), 9);
    in.documents = indices(ids, {1, first + second});
    const auto packed =
        run([&](const auto& inputs_of) { return core::ops::attention(inputs_of[0], heads, in); },
            {tensor(x, {1, first + second, columns})});
    const auto alone =
        run([&](const auto& inputs_of) { return core::ops::attention(inputs_of[0], heads); },
            {tensor({x.begin() + first * columns, x.end()}, {1, second, columns})});
    expect_close({packed.begin() + first * 16, packed.end()}, alone, 1e-6, "second document");
}

/// Keys and values of a packed qkv, as a cache with room to spare that holds NaN.
struct Cache {
    Tensor k, v;
};

class CachedAttentionTest : public AttentionTest {
  protected:
    Cache cache_of(const AttentionCase& c, const std::vector<float>& qkv, DType dtype) {
        const int64_t room = c.tokens + 40, width = c.kv_heads * c.width;
        const float nan = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> k(static_cast<size_t>(c.batch * room * width), nan), v = k;
        for (int64_t b = 0; b < c.batch; ++b)
            for (int64_t t = 0; t < c.tokens; ++t)
                for (int64_t i = 0; i < width; ++i) {
                    const int64_t from = (b * c.tokens + t) * c.columns() + c.heads * c.width + i;
                    const auto to = static_cast<size_t>((b * room + t) * width + i);
                    k[to] = qkv[static_cast<size_t>(from)];
                    v[to] = qkv[static_cast<size_t>(from + width)];
                }
        return {tensor(k, {c.batch, room, width}, dtype), tensor(v, {c.batch, room, width}, dtype)};
    }
};

TEST_F(CachedAttentionTest, TokenByTokenEqualsTheWholeSequenceBitForBit) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (const AttentionCase& c : {AttentionCase{"grouped", 2, 131, 4, 2, 24},
                                       AttentionCase{"alibi", 1, 70, 3, 3, 8, true, true},
                                       AttentionCase{.name = "window",
                                       .batch = 2,
                                       .tokens = 210,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .width = 8,
                                       .window = 70}})
            for (int64_t step : {1, 3, 64, 67}) {
                const std::vector<float> x = values(c);
                const Cache cache = cache_of(c, x, dtype);
                const auto whole =
                    run(function(c), {tensor(x, {c.batch, c.tokens, c.columns()}, dtype)});
                for (int64_t start = 0; start < c.tokens; start += step) {
                    const int64_t count = std::min(step, c.tokens - start);
                    std::vector<float> rows;
                    std::vector<double> expected;
                    for (int64_t b = 0; b < c.batch; ++b) {
                        const int64_t at = b * c.tokens + start, width = c.heads * c.width;
                        rows.insert(rows.end(), x.begin() + at * c.columns(),
                                    x.begin() + (at + count) * c.columns());
                        expected.insert(expected.end(), whole.begin() + at * width,
                                        whole.begin() + (at + count) * width);
                    }
                    const Tensor starts = indices(std::vector<int32_t>(static_cast<size_t>(c.batch),
                                                                       static_cast<int32_t>(start)),
                                                  {c.batch});
                    const auto y = run(
                        [&](const auto& in) {
                            return core::ops::attention_cached(in[0], cache.k, cache.v, starts,
                                                               options(c), inputs(c).slopes);
                        },
                        {tensor(rows, {c.batch, count, c.columns()}, dtype)});
                    ASSERT_EQ(
                        0, std::memcmp(y.data(), expected.data(), expected.size() * sizeof(double)))
                        << c.name << ", " << count << " tokens at " << start;
                }
            }
}

TEST_F(CachedAttentionTest, SamplesMayStandAtDifferentPositions) {
    const AttentionCase c{"uneven", 2, 30, 2, 2, 8};
    const std::vector<float> x = values(c);
    const Cache cache = cache_of(c, x, DType::f32);
    const auto whole = run(function(c), {tensor(x, {c.batch, c.tokens, c.columns()})});
    const int64_t at[] = {29, 11};
    std::vector<float> rows;
    std::vector<double> expected;
    for (int64_t b = 0; b < 2; ++b) {
        const int64_t row = b * c.tokens + at[b];
        rows.insert(rows.end(), x.begin() + row * c.columns(), x.begin() + (row + 1) * c.columns());
        expected.insert(expected.end(), whole.begin() + row * 16, whole.begin() + (row + 1) * 16);
    }
    EXPECT_EQ(run(
                  [&](const auto& in) {
                      return core::ops::attention_cached(in[0], cache.k, cache.v,
                                                         indices({29, 11}, {2}), options(c));
                  },
                  {tensor(rows, {2, 1, c.columns()})}),
              expected);
}

TEST_F(CachedAttentionTest, MoreTokensThanTheCacheHoldsAreRefused) {
    const Tensor q = tensor(std::vector<float>(16), {1, 2, 8});
    const Tensor cache = tensor(std::vector<float>(32), {1, 4, 8});
    const auto attend = [&](int32_t start) {
        run(
            [&](const auto& in) {
                return core::ops::attention_cached(in[0], cache, cache, indices({start}, {1}),
                                                   {.heads = 2, .kv_heads = 2});
            },
            {q});
    };
    EXPECT_NO_THROW(attend(2));
    EXPECT_THROW(attend(3), Error);
    EXPECT_THROW(attend(-1), Error);
}

TEST_F(AttentionTest, HeadsThatDoNotFitAreRefused) {
    const Tensor qkv = tensor(std::vector<float>(2 * 30), {1, 2, 30});
    const auto attend = [&](kernels::Attention options_of) {
        run([&](const auto& in) { return core::ops::attention(in[0], options_of); }, {qkv});
    };
    EXPECT_NO_THROW(attend({.heads = 2, .kv_heads = 2}));
    EXPECT_THROW(attend({.heads = 3, .kv_heads = 2}), Error);   // 30 columns, 7 heads
    EXPECT_THROW(attend({.heads = 6, .kv_heads = 12}), Error);  // more kv heads than heads
    EXPECT_THROW(attend({.heads = 2, .kv_heads = 2, .dropout = 0.5f}), Error);  // no samples
}

TEST(AlibiSlopes, GoldenValues) {
    const std::vector<float> twelve = {.5f,        .25f,       .125f,     .0625f,
                                       .03125f,    .015625f,   .0078125f, .00390625f,
                                       .70710678f, .35355339f, .1767767f, .08838835f};
    const std::vector<float> slopes = kernels::alibi_slopes(12);
    ASSERT_EQ(slopes.size(), twelve.size());
    for (size_t i = 0; i < slopes.size(); ++i)
        EXPECT_FLOAT_EQ(slopes[i], twelve[i]) << "head " << i;
    EXPECT_EQ(kernels::alibi_slopes(1), std::vector<float>{0x1p-8f});
    EXPECT_EQ(kernels::alibi_slopes(4), (std::vector<float>{0x1p-2f, 0x1p-4f, 0x1p-6f, 0x1p-8f}));
}

}  // namespace
}  // namespace plinth::test
