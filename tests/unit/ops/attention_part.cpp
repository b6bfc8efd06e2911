// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include <cstring>

#include "tests/support/attention_oracle.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Tensor;
using kernels::AttentionPart;

/// What the parts of one case work on; queries and keys are cut at the same tokens.
class AttentionPartTest : public OpTest {
  protected:
    struct Result {
        Tensor y, log_sum, dqkv;
    };

    /// Borders of the parts, multiples of four.
    static std::vector<int64_t> cuts_of(int64_t tokens, int64_t parts) {
        std::vector<int64_t> cuts{0};
        for (int64_t i = 1; i < parts; ++i)
            cuts.push_back(std::max(cuts.back(), tokens * i / parts / 4 * 4));
        cuts.push_back(tokens);
        return cuts;
    }

    kernels::AttentionMask mask(const AttentionCase& c) {
        if (c.alibi) slopes_ = tensor(kernels::alibi_slopes(c.heads), {c.heads});
        if (c.documents) documents_ = indices(document_ids(c), {c.batch, c.tokens});
        std::vector<int64_t> samples;
        for (int64_t b = 0; b < c.batch; ++b)
            samples.push_back(first_sample + b);
        samples_ = Tensor::of(samples, {c.batch}, *allocator_);
        return {c.alibi ? slopes_.in() : ConstView{}, c.documents ? documents_.in() : ConstView{},
                samples_.in()};
    }
    static kernels::Attention options(const AttentionCase& c) {
        return {.heads = c.heads,
                .kv_heads = c.kv_heads,
                .causal = c.causal,
                .dropout = c.dropout,
                .random = RandomKey(42, attention_dropout_name, 3)};
    }

    /// Queries of each part meet the keys of every part, beginning with those of the part `turn`
    /// further on; keys of part `left_out` are forgotten.
    Result run_parts(const AttentionCase& c, const Tensor& qkv, const Tensor& dy, int64_t parts,
                     int64_t turn, Stream& stream, int64_t left_out = -1) {
        const int64_t width = c.heads * c.width, kv_width = c.kv_heads * c.width;
        const float nan = std::numeric_limits<float>::quiet_NaN();
        const auto floats = [&](const Shape& shape, float value) {
            return tensor(std::vector<float>(static_cast<size_t>(shape.elements()), value), shape);
        };
        const kernels::AttentionMask masks = mask(c);
        const std::vector<int64_t> cuts = cuts_of(c.tokens, parts);
        /// body(queries, keys, part) with views cut to the tokens of each.
        const auto for_parts = [&](auto&& body) {
            for (size_t q = 0; q + 1 < cuts.size(); ++q) {
                bool begins = true;
                for (int64_t i = 0; i < parts; ++i) {
                    const auto k =
                        static_cast<size_t>((static_cast<int64_t>(q) + turn + i) % parts);
                    if (static_cast<int64_t>(k) == left_out) continue;
                    const int64_t queries = cuts[q + 1] - cuts[q], keys = cuts[k + 1] - cuts[k];
                    if (queries == 0 || keys == 0) continue;
                    body([&](auto view, int dim) { return view.narrow(dim, cuts[q], queries); },
                         [&](auto view) { return view.narrow(1, cuts[k], keys); },
                         AttentionPart{cuts[q], cuts[k], c.tokens, begins});
                    begins = false;
                }
            }
        };
        const auto heads_of = [&](auto view, int64_t first, int64_t columns) {
            return view.narrow(2, first, columns);
        };
        Tensor y = floats(dy.shape(), nan), log_sum = floats({c.batch, c.heads, c.tokens}, nan);
        const ConstView q = heads_of(qkv.in(), 0, width), k = heads_of(qkv.in(), width, kv_width),
                        v = heads_of(qkv.in(), width + kv_width, kv_width);
        for_parts([&](auto&& queries, auto&& keys, AttentionPart part) {
            kernels::attention_part_forward(queries(y.out(), 1), queries(log_sum.out(), 2),
                                            queries(q, 1), keys(k), keys(v), masks, part,
                                            options(c), stream);
        });
        Tensor rounded = Tensor::empty(y.shape(), qkv.dtype(), *allocator_);
        kernels::attention_part_join(rounded.out(), y.in(), {}, stream);
        Tensor sums = floats(qkv.shape(), 0.0f);
        const View dq = heads_of(sums.out(), 0, width), dk = heads_of(sums.out(), width, kv_width),
                   dv = heads_of(sums.out(), width + kv_width, kv_width);
        for_parts([&](auto&& queries, auto&& keys, AttentionPart part) {
            kernels::attention_part_backward(queries(dq, 1), keys(dk), keys(dv),
                                             queries(dy.in(), 1), queries(rounded.in(), 1),
                                             queries(log_sum.in(), 2), queries(q, 1), keys(k),
                                             keys(v), masks, part, options(c), stream);
        });
        Tensor dqkv = Tensor::empty(qkv.shape(), qkv.dtype(), *allocator_);
        kernels::attention_part_join(dqkv.out(), sums.in(), {}, stream);
        return {rounded, log_sum, dqkv};
    }

    void compare_with_oracle(DType dtype, double forward_tolerance, double backward_tolerance) {
        for (const AttentionCase& c : attention_test_cases)
            for (const int64_t parts : {1, 2, 5}) {
                SCOPED_TRACE(fmt::format("{} in {} parts", c.name, parts));
                std::vector<float> x = random_values(c.batch * c.tokens * c.columns(), "qkv");
                std::vector<float> dy =
                    random_values(c.batch * c.tokens * c.heads * c.width, "projection");
                if (dtype == DType::bf16) x = rounded_to_bf16(x), dy = rounded_to_bf16(dy);
                const AttentionOracle oracle(c, x);
                const Result result =
                    run_parts(c, tensor(x, {c.batch, c.tokens, c.columns()}, dtype),
                              tensor(dy, {c.batch, c.tokens, c.heads * c.width}, dtype), parts,
                              /*turn=*/parts > 2 ? 3 : 0, stream_);
                expect_close(to_doubles(result.y), oracle.forward(), forward_tolerance, "y");
                expect_close(to_doubles(result.dqkv), oracle.backward(dy), backward_tolerance,
                             "dqkv");
            }
    }

    Tensor slopes_, documents_, samples_;
};

TEST_F(AttentionPartTest, Fp32PartsEqualTheWholeInDouble) {
    compare_with_oracle(DType::f32, 2e-6, 1e-5);
}
TEST_F(AttentionPartTest, Bf16PartsEqualTheOracleOfRoundedInputs) {
    compare_with_oracle(DType::bf16, 4e-3, 3e-2);
}

TEST_F(AttentionPartTest, APartThatIsLeftOutIsSeen) {
    const AttentionCase c{"mutant", 2, 40, 2, 1, 8};
    const std::vector<float> x = random_values(c.batch * c.tokens * c.columns(), "qkv");
    const std::vector<float> dy = random_values(c.batch * c.tokens * c.heads * c.width, "dy");
    const AttentionOracle oracle(c, x);
    const Result result = run_parts(c, tensor(x, {2, 40, c.columns()}), tensor(dy, {2, 40, 16}), 4,
                                    0, stream_, /*left_out=*/1);
    const std::vector<double> y = to_doubles(result.y), expected = oracle.forward();
    double furthest = 0.0;
    for (size_t i = 0; i < y.size(); ++i)
        furthest = std::max(furthest, std::abs(y[i] - expected[i]));
    EXPECT_GT(furthest, 1e-2);
}

TEST_F(AttentionPartTest, ThreadsDoNotChangeBits) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const AttentionCase& c : attention_test_cases) {
            const Tensor qkv = tensor(random_values(c.batch * c.tokens * c.columns(), "qkv"),
                                      {c.batch, c.tokens, c.columns()}, dtype);
            const Tensor dy = tensor(random_values(c.batch * c.tokens * c.heads * c.width, "dy"),
                                     {c.batch, c.tokens, c.heads * c.width}, dtype);
            std::vector<double> first;
            for (const int threads : {1, 2, 3, 8}) {
                Stream stream(threads);
                const Result result = run_parts(c, qkv, dy, 3, 1, stream);
                std::vector<double> all = to_doubles(result.y);
                for (const Tensor& more : {result.log_sum, result.dqkv})
                    for (const double value : to_doubles(more))
                        all.push_back(value);
                if (first.empty()) first = all;
                EXPECT_EQ(0, std::memcmp(first.data(), all.data(), all.size() * sizeof(double)))
                    << threads << " threads, " << c.name;
            }
        }
}

TEST_F(AttentionPartTest, JoinAddsWhatOtherRanksGaveToKeysAndValuesOnly) {
    // Two queries' columns, one key's and one value's, of two tokens.
    const Tensor own = tensor({1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 4});
    const Tensor others = tensor({10, 20, 100, 200}, {2, 1, 2, 1});
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Tensor joined = Tensor::empty(own.shape(), dtype, *allocator_);
        kernels::attention_part_join(joined.out(), own.in(), others.in(), stream_);
        EXPECT_EQ(to_doubles(joined), (std::vector<double>{1, 2, 13, 104, 5, 6, 27, 208}));
    }
}

}  // namespace
}  // namespace plinth::test
