// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include <array>
#include <cmath>
#include <cstring>

#include "kernels/attention_shape.h"
#include "tests/support/attention_oracle.h"
#include "tests/support/attention_parts.h"
#include "tests/support/expect_error.h"
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
                .window = c.window,
                .dropout = c.dropout,
                .random = StepKey(42, attention_dropout_name, 3)};
    }

    /// A mutant: changes what is said of a part.
    using Spoil = std::function<void(AttentionPart&)>;

    /// Queries of each part meet the keys of every part, beginning with those of the part `turn`
    /// further on; keys of part `left_out` are forgotten.
    Result run_parts(const AttentionCase& c, const Tensor& qkv, const Tensor& dy, int64_t parts,
                     int64_t turn, Stream& stream, int64_t left_out = -1, const Spoil& spoil = {}) {
        const int64_t width = c.heads * c.width, kv_width = c.kv_heads * c.width;
        const float nan = std::numeric_limits<float>::quiet_NaN();
        const auto floats = [&](const Shape& shape, float value) {
            return tensor(std::vector<float>(static_cast<size_t>(shape.elements()), value), shape);
        };
        const kernels::AttentionMask masks = mask(c);
        const auto for_parts = [&](auto&& body) {
            for_attention_parts(
                c.tokens, parts, turn,
                [&](TokenRun queries, TokenRun keys, AttentionPart part) {
                    if (spoil) spoil(part);
                    body(queries, keys, part);
                },
                left_out);
        };
        const auto heads_of = [&](auto view, int64_t first, int64_t columns) {
            return view.narrow(2, first, columns);
        };
        Tensor y = floats(dy.shape(), nan), log_sum = floats({c.batch, c.heads, c.tokens}, nan);
        const ConstView q = heads_of(qkv.in(), 0, width), k = heads_of(qkv.in(), width, kv_width),
                        v = heads_of(qkv.in(), width + kv_width, kv_width);
        for_parts([&](TokenRun queries, TokenRun keys, AttentionPart part) {
            kernels::attention_part_forward(queries.of(y.out()), queries.of(log_sum.out(), 2),
                                            queries.of(q), keys.of(k), keys.of(v), masks, part,
                                            options(c), stream);
        });
        Tensor rounded = Tensor::empty(y.shape(), qkv.dtype(), *allocator_);
        kernels::attention_part_join(rounded.out(), y.in(), {}, stream);
        Tensor sums = floats(qkv.shape(), 0.0f);
        const View dq = heads_of(sums.out(), 0, width), dk = heads_of(sums.out(), width, kv_width),
                   dv = heads_of(sums.out(), width + kv_width, kv_width);
        for_parts([&](TokenRun queries, TokenRun keys, AttentionPart part) {
            kernels::attention_part_backward(queries.of(dq), keys.of(dk), keys.of(dv),
                                             queries.of(dy.in()), queries.of(rounded.in()),
                                             queries.of(log_sum.in(), 2), queries.of(q), keys.of(k),
                                             keys.of(v), masks, part, options(c), stream);
        });
        Tensor dqkv = Tensor::empty(qkv.shape(), qkv.dtype(), *allocator_);
        kernels::attention_part_join(dqkv.out(), sums.in(), {}, stream);
        return {rounded, log_sum, dqkv};
    }

    /// Norm of the difference of dq, dk and dv each, in parts of that gradient's norm, but at least
    /// 1e-3 of the whole one's: with one key in sight the gradients of q and k are zero.
    static std::array<double, 3> gradient_errors(const AttentionCase& c,
                                                 const std::vector<double>& actual,
                                                 const std::vector<double>& expected) {
        std::array<double, 3> distance{}, size{}, errors{};
        double whole = 0.0;
        for (size_t i = 0; i < expected.size(); ++i) {
            const int64_t head = static_cast<int64_t>(i) % c.columns() / c.width;
            const size_t which = head < c.heads ? 0 : head < c.heads + c.kv_heads ? 1 : 2;
            distance[which] += (actual[i] - expected[i]) * (actual[i] - expected[i]);
            size[which] += expected[i] * expected[i];
            whole += expected[i] * expected[i];
        }
        for (size_t which = 0; which < 3; ++which)
            errors[which] = std::sqrt(distance[which] / std::max(size[which], 1e-6 * whole));
        return errors;
    }

    /// `backward_tolerance`: of norms, see gradient_errors.
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
                const auto errors =
                    gradient_errors(c, to_doubles(result.dqkv), oracle.backward(dy));
                for (size_t which = 0; which < 3; ++which)
                    EXPECT_LE(errors[which], backward_tolerance) << "d"
                                                                 << "qkv"[which];
            }
    }

    /// How far a mutant is from the oracle in bf16: y, dq, dk and dv.
    std::array<double, 4> errors_of(const AttentionCase& c, const Spoil& spoil) {
        const std::vector<float> x =
            rounded_to_bf16(random_values(c.batch * c.tokens * c.columns(), "qkv"));
        const std::vector<float> dy =
            rounded_to_bf16(random_values(c.batch * c.tokens * c.heads * c.width, "dy"));
        const AttentionOracle oracle(c, x);
        const Result result =
            run_parts(c, tensor(x, {c.batch, c.tokens, c.columns()}, DType::bf16),
                      tensor(dy, {c.batch, c.tokens, c.heads * c.width}, DType::bf16), 4, 1,
                      stream_, -1, spoil);
        const auto gradients = gradient_errors(c, to_doubles(result.dqkv), oracle.backward(dy));
        return {norm_error(to_doubles(result.y), oracle.forward()), gradients[0], gradients[1],
                gradients[2]};
    }

    Tensor slopes_, documents_, samples_;
};

/// Rounding of y and of the gradients; far below what any mutant makes.
constexpr double bf16_gradient_error = 2.5e-3;

TEST_F(AttentionPartTest, Fp32PartsEqualTheWholeInDouble) {
    compare_with_oracle(DType::f32, 2e-6, 1e-6);
}
TEST_F(AttentionPartTest, Bf16PartsEqualTheOracleOfRoundedInputs) {
    compare_with_oracle(DType::bf16, 4e-3, bf16_gradient_error);
}

TEST_F(AttentionPartTest, PartsOfOtherPlacesAreSeen) {
    const std::vector<AttentionCase> positioned = {
        {.name = "causal", .batch = 2, .tokens = 96, .heads = 2, .kv_heads = 1, .width = 8},
        {.name = "window",
         .batch = 2,
         .tokens = 192,
         .heads = 2,
         .kv_heads = 1,
         .width = 8,
         .window = 40},
        {.name = "alibi",
         .batch = 1,
         .tokens = 96,
         .heads = 8,
         .kv_heads = 2,
         .width = 8,
         .causal = false,
         .alibi = true},
        {.name = "documents",
         .batch = 2,
         .tokens = 192,
         .heads = 2,
         .kv_heads = 1,
         .width = 8,
         .causal = false,
         .documents = true},
        {.name = "dropout",
         .batch = 2,
         .tokens = 96,
         .heads = 2,
         .kv_heads = 2,
         .width = 8,
         .causal = false,
         .dropout = 0.25f}};
    const std::vector<std::pair<const char*, Spoil>> mutants = {
        // The last part alone: what moves all keys alike changes no ALiBi.
        {"first_key",
         [](AttentionPart& part) { part.first_key -= part.first_key > part.tokens / 2 ? 4 : 0; }},
        {"first_query",
         [](AttentionPart& part) { part.first_query -= part.first_query > 0 ? 4 : 0; }}};
    for (const AttentionCase& c : positioned) {
        for (const double error : errors_of(c, {}))
            EXPECT_LE(error, bf16_gradient_error) << c.name;
        for (const auto& [what, spoil] : mutants) {
            // Slopes move all scores of a query alike, which softmax does not see.
            if (c.alibi && std::string(what) == "first_query") continue;
            for (const double error : errors_of(c, spoil))
                EXPECT_GT(error, 4 * bf16_gradient_error) << c.name << ", " << what;
        }
        // Every part begins, and forgets what its queries have met.
        for (const double error : errors_of(c, [](AttentionPart& part) { part.begins = true; }))
            EXPECT_GT(error, 4 * bf16_gradient_error) << c.name << ", begins";
        // None begins: y and log_sum are what they were, no numbers.
        for (const double error : errors_of(c, [](AttentionPart& part) { part.begins = false; }))
            EXPECT_FALSE(error <= bf16_gradient_error) << c.name << ", none begins";
    }
}

TEST_F(AttentionPartTest, DropoutRefusesMoreTokensAndHeadsThanItsNumbersHold) {
    const auto shape_of = [](int64_t tokens, int64_t first_head, float dropout) {
        float memory = 0.0f;
        int64_t sample = 0;
        const auto view = [&](const Shape& shape) { return ConstView(&memory, DType::f32, shape); };
        kernels::AttentionShape::of_packed(view({1, tokens, 3}), view({1, tokens, 1}),
                                           view({1, 1, tokens}),
                                           {.samples = ConstView(&sample, DType::i64, {1})},
                                           {.dropout = dropout, .first_head = first_head});
        kernels::AttentionShape::of_part(
            view({1, 1, 4}), view({1, 4, 1}), view({1, 4, 1}), view({1, 4, 1}),
            {.samples = ConstView(&sample, DType::i64, {1})}, {.tokens = tokens},
            {.dropout = dropout, .first_head = first_head});
    };
    constexpr int64_t most_tokens = int64_t{1} << 24, last_head = (int64_t{1} << 16) - 1;
    EXPECT_NO_THROW(shape_of(most_tokens, last_head, 0.1f));
    EXPECT_NO_THROW(shape_of(most_tokens + 1, last_head + 1, 0.0f));
    expect_error(
        ErrorKind::internal, [&] { shape_of(most_tokens + 1, 0, 0.1f); }, "dropout", "16777217");
    expect_error(
        ErrorKind::internal, [&] { shape_of(8, last_head + 1, 0.1f); }, "dropout", "65537");
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
