// SPDX-License-Identifier: Apache-2.0
#include "core/ops/cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/add.h"
#include "kernels/cross_entropy.h"
#include "tests/support/central_differences.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

struct Case {
    int64_t rows, columns, valid;
    double z_loss;
};

const std::vector<Case> cases = {{1, 1, 1, 0.0},
                                 {1, 17, 17, 0.0},
                                 {13, 31, 29, 0.0},
                                 {67, 257, 257, 1e-3},
                                 {5, 1024, 1001, 0.1}};

/// The formula in double, and its gradient for dloss = scale.
struct Naive {
    double loss = 0.0, entropy = 0.0;
    int64_t weight = 0, correct = 0;
    std::vector<double> dlogits;

    Naive(const std::vector<float>& x, const std::vector<int32_t>& targets, const Case& c,
          double scale) {
        for (int64_t r = 0; r < c.rows; ++r) {
            double sum = 0.0, largest = -1e300;
            const auto at = [&](int64_t i) {
                return static_cast<double>(x[static_cast<size_t>(r * c.columns + i)]);
            };
            for (int64_t i = 0; i < c.valid; ++i)
                sum += std::exp(at(i)), largest = std::max(largest, at(i));
            const double log_sum = std::log(sum);
            const int32_t target = targets[static_cast<size_t>(r)];
            const bool counts = target != -100;
            for (int64_t i = 0; i < c.columns; ++i) {
                const double p = i < c.valid ? std::exp(at(i)) / sum : 0.0;
                dlogits.push_back(
                    counts ? scale * ((1.0 + 2.0 * c.z_loss * log_sum) * p - (i == target)) : 0.0);
            }
            if (!counts) continue;
            entropy += log_sum - at(target);
            loss += log_sum - at(target) + c.z_loss * log_sum * log_sum;
            ++weight;
            correct += at(target) == largest;
        }
    }
};

class CrossEntropyTest : public OpTest {
  protected:
    std::vector<int32_t> targets_for(const Case& c) {
        std::vector<int32_t> targets;
        for (int64_t r = 0; r < c.rows; ++r)
            targets.push_back(r % 5 == 3 ? -100 : static_cast<int32_t>((r * 7 + 3) % c.valid));
        return targets;
    }
    /// Loss and the gradient for dloss = scale.
    std::pair<core::ops::Loss, std::vector<double>> differentiate(
        Tensor logits, const std::vector<int32_t>& targets, const Case& c, float scale) {
        core::Tape tape;
        const core::Scope scope(
            {.stream = &stream_, .allocator = allocator_.get(), .tape = &tape, .step = &step_});
        tape.watch(logits);
        core::ops::Loss loss =
            core::ops::cross_entropy(logits, indices(targets, {c.rows}), {c.valid, c.z_loss});
        std::vector<core::Root> roots{{loss.sum, tensor({scale}, {1})}};
        const auto dlogits = tape.backward(std::move(roots), {&logits, 1});
        return {loss, to_doubles(dlogits[0])};
    }
};

TEST_F(CrossEntropyTest, LossAndGradientEqualTheFormulaInDouble) {
    for (const Case& c : cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            auto x = random_values(c.rows * c.columns, "x");
            for (float& value : x)
                value *= 8.0f;
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            const auto targets = targets_for(c);
            const Naive naive(x, targets, c, 0.5);
            const auto [loss, dlogits] =
                differentiate(tensor(x, {c.rows, c.columns}, dtype), targets, c, 0.5f);
            EXPECT_NEAR(*loss.sum.data<double>(), naive.loss, 1e-6 * (1.0 + std::abs(naive.loss)));
            EXPECT_NEAR(*loss.cross_entropy.data<double>(), naive.entropy,
                        1e-6 * (1.0 + std::abs(naive.entropy)));
            if (c.z_loss > 0)  // the comparison can tell them apart
                EXPECT_GT(naive.loss, 1.01 * naive.entropy);
            else
                EXPECT_EQ(*loss.sum.data<double>(), *loss.cross_entropy.data<double>());
            EXPECT_EQ(*loss.weight.data<int64_t>(), naive.weight);
            EXPECT_EQ(*loss.correct.data<int64_t>(), naive.correct);
            expect_close(dlogits, naive.dlogits, dtype == DType::f32 ? 2e-6 : 3e-3, "dlogits");
            if (c.valid == 1) continue;  // the gradient is 0
            const double bound = dtype == DType::f32 ? 2e-6 : 4e-3;
            EXPECT_LE(norm_error(dlogits, naive.dlogits), bound);
            EXPECT_GT(norm_error(dlogits, Naive(x, targets, c, 0.505).dlogits), bound);  // a mutant
        }
}

TEST_F(CrossEntropyTest, GradientsMatchFiniteDifferencesOfTheLoss) {
    const Case c{11, 19, 17, 0.1};
    const auto targets = targets_for(c);
    auto x = random_values(c.rows * c.columns, "x");
    for (float& value : x)
        value *= 2.0f;
    Tensor logits = tensor(x, {c.rows, c.columns});
    const Tensor labels = indices(targets, {c.rows});
    const auto differences = central_differences(
        logits,
        [&] {
            const core::Scope scope({.stream = &stream_, .allocator = allocator_.get()});
            return *core::ops::cross_entropy(logits, labels, {c.valid, c.z_loss})
                        .sum.data<double>();
        },
        1e-2);
    const auto gradient_of = [&](const std::vector<int32_t>& of_targets, double z_loss) {
        return differentiate(tensor(x, {c.rows, c.columns}), of_targets,
                             {c.rows, c.columns, c.valid, z_loss}, 1.0f)
            .second;
    };
    constexpr double bound = 5e-4;
    EXPECT_LE(norm_error(gradient_of(targets, c.z_loss), differences), bound);
    // Mutants: without the term of the z-loss, with a little less of it, and with the labels that
    // are ignored.
    EXPECT_GT(norm_error(gradient_of(targets, 0.0), differences), bound);
    EXPECT_GT(norm_error(gradient_of(targets, 0.99 * c.z_loss), differences), bound);
    auto all = targets;
    std::replace(all.begin(), all.end(), -100, 3);
    ASSERT_NE(all, targets);
    EXPECT_GT(norm_error(gradient_of(all, c.z_loss), differences), bound);
}

/// Largest logit, sum of exponentials and target logit of each row.
using RowFacts = std::array<std::vector<double>, 3>;

TEST_F(CrossEntropyTest, PartsOfTheVocabularyCombineToTheWhole) {
    const Case c{67, 24, 15, 0.0};  // the last of the parts are padding, in whole or in part
    auto x = random_values(c.rows * c.columns, "x");
    for (float& value : x)
        value *= 20.0f;
    const Tensor targets = indices(targets_for(c), {c.rows});
    /// Of columns [first, first + count), into rows 0..2 of `part`.
    const auto look = [&](Tensor part, int64_t first, int64_t count) {
        std::vector<float> columns;
        for (int64_t r = 0; r < c.rows; ++r)
            for (int64_t i = first; i < first + count; ++i)
                columns.push_back(x[static_cast<size_t>(r * c.columns + i)]);
        Tensor largest = part.rows(0, 1), sum = part.rows(1, 2), target_logit = part.rows(2, 3);
        kernels::cross_entropy_local(largest.out(), sum.out(), target_logit.out(),
                                     tensor(columns, {c.rows, count}).in(), targets.in(),
                                     {.first_column = first, .valid_columns = c.valid}, stream_);
    };
    const auto facts_of = [&](const Tensor& part) {
        return RowFacts{to_doubles(part.rows(0, 1)), to_doubles(part.rows(1, 2)),
                        to_doubles(part.rows(2, 3))};
    };
    Tensor whole = Tensor::empty({3, c.rows}, DType::f32, *allocator_);
    look(whole, 0, c.columns);
    const RowFacts expected = facts_of(whole);
    for (const int64_t ranks : {1, 2, 3, 4, 6, 8}) {
        Tensor parts = Tensor::empty({ranks, 3, c.rows}, DType::f32, *allocator_);
        const int64_t count = c.columns / ranks;
        const auto combine = [&] {
            Tensor combined = Tensor::empty({3, c.rows}, DType::f32, *allocator_);
            Tensor largest = combined.rows(0, 1), sum = combined.rows(1, 2),
                   target_logit = combined.rows(2, 3);
            kernels::cross_entropy_combine(largest.out(), sum.out(), target_logit.out(), parts.in(),
                                           stream_);
            return facts_of(combined);
        };
        for (int64_t rank = 0; rank < ranks; ++rank)
            look(parts.rows(rank, rank + 1).reshape({3, c.rows}), rank * count, count);
        const RowFacts combined = combine();
        EXPECT_EQ(combined[0], expected[0]) << ranks;
        EXPECT_EQ(combined[2], expected[2]) << ranks;
        expect_close(combined[1], expected[1], 1e-6, fmt::format("{} ranks", ranks));
        // The sum of one rank left out must show, where it holds more than padding.
        Tensor lost = parts.rows(0, 1).reshape({3, c.rows});
        kernels::scale(lost.out(), lost.in(), 0.0f, stream_);
        EXPECT_NE(combine()[1], combined[1]) << ranks;
    }
}

TEST_F(CrossEntropyTest, HugeLogitsStayFinite) {
    const Case c{2, 3, 3, 0.0};
    const auto [loss, dlogits] =
        differentiate(tensor({1e30f, 0, 0, -1e30f, 0, 0}, {2, 3}), {0, 1}, c, 1.0f);
    EXPECT_NEAR(*loss.sum.data<double>(), std::log(2.0), 1e-6);
    expect_close(dlogits, {0, 0, 0, 0, -0.5, 0.5}, 1e-6, "dlogits");
}

TEST_F(CrossEntropyTest, TheBackwardPassReusesTheLogits) {
    const Case c{7, 31, 31, 0.0};
    Tensor logits = tensor(random_values(7 * 31, "x"), {7, 31});
    const void* memory = logits.in().data;
    core::Tape tape;
    const core::Scope scope(
        {.stream = &stream_, .allocator = allocator_.get(), .tape = &tape, .step = &step_});
    tape.watch(logits);
    auto loss = core::ops::cross_entropy(logits, indices(targets_for(c), {7}), {31, 0.0});
    std::vector<core::Root> roots{{loss.sum, tensor({1.0f}, {1})}};
    EXPECT_EQ(tape.backward(std::move(roots), {&logits, 1})[0].in().data, memory);
}

TEST_F(CrossEntropyTest, ATargetOutsideOfTheVocabularyIsNamed) {
    const Case c{1, 8, 5, 0.0};
    try {
        differentiate(tensor(random_values(8, "x"), {1, 8}), {6}, c, 1.0f);
        GTEST_FAIL() << "not refused";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::data);
        EXPECT_NE(std::string(error.what()).find("target 6 of row 0"), std::string::npos)
            << error.what();
    }
}

/// What a vocabulary cut over two ranks computes, combined by hand.
TEST_F(CrossEntropyTest, PartsOfACutVocabularyCombine) {
    const Case c{11, 60, 57, 1e-2};
    const auto x = random_values(c.rows * c.columns, "x");
    const auto targets = targets_for(c);
    const Naive naive(x, targets, c, 1.0);
    const Tensor target_tensor = indices(targets, {c.rows});
    const Shape rows{c.rows};
    struct Part {
        Tensor logits, largest, sum, target;
    };
    std::vector<Part> parts;
    for (int64_t first : {0, 30}) {
        std::vector<float> columns;
        for (int64_t r = 0; r < c.rows; ++r)
            columns.insert(columns.end(), x.begin() + r * 60 + first,
                           x.begin() + r * 60 + first + 30);
        const std::vector<float> blank(static_cast<size_t>(c.rows));
        parts.push_back({tensor(columns, {c.rows, 30}), tensor(blank, rows), tensor(blank, rows),
                         tensor(blank, rows)});
        Part& part = parts.back();
        kernels::cross_entropy_local(part.largest.out(), part.sum.out(), part.target.out(),
                                     part.logits.in(), target_tensor.in(),
                                     {.first_column = first, .valid_columns = 57}, stream_);
    }
    for (int64_t r = 0; r < c.rows; ++r) {
        float &max0 = parts[0].largest.data<float>()[r], max1 = parts[1].largest.data<float>()[r];
        const float high = std::max(max0, max1);
        parts[0].sum.data<float>()[r] = parts[0].sum.data<float>()[r] * std::exp(max0 - high) +
                                        parts[1].sum.data<float>()[r] * std::exp(max1 - high);
        parts[0].target.data<float>()[r] =
            std::max(parts[0].target.data<float>()[r], parts[1].target.data<float>()[r]);
        max0 = high;
    }
    Tensor loss = Tensor::of<double>({0}, {1}, *allocator_),
           entropy = Tensor::of<double>({0}, {1}, *allocator_),
           weight = Tensor::of<int64_t>({0}, {1}, *allocator_),
           correct = Tensor::of<int64_t>({0}, {1}, *allocator_),
           log_sum = tensor(random_values(c.rows, "l"), rows);
    kernels::cross_entropy_finish(loss.out(), entropy.out(), weight.out(), correct.out(),
                                  log_sum.out(), parts[0].largest.in(), parts[0].sum.in(),
                                  parts[0].target.in(), target_tensor.in(),
                                  {.valid_columns = 57, .z_loss = c.z_loss}, stream_);
    EXPECT_NEAR(*loss.data<double>(), naive.loss, 1e-5);
    EXPECT_NEAR(*entropy.data<double>(), naive.entropy, 1e-5);
    EXPECT_EQ(*correct.data<int64_t>(), naive.correct);
    for (size_t p : {0u, 1u}) {
        kernels::cross_entropy_backward(
            parts[p].logits.out(), tensor({1.0f}, {1}).in(), log_sum.in(), target_tensor.in(),
            {.first_column = static_cast<int64_t>(p) * 30, .valid_columns = 57, .z_loss = c.z_loss},
            stream_);
        std::vector<double> expected;
        for (int64_t r = 0; r < c.rows; ++r)
            for (int64_t i = 0; i < 30; ++i)
                expected.push_back(
                    naive.dlogits[static_cast<size_t>(r * 60 + static_cast<int64_t>(p) * 30 + i)]);
        expect_close(to_doubles(parts[p].logits), expected, 2e-6, "part");
    }
}

TEST_F(CrossEntropyTest, ThreadsDoNotChangeBits) {
    const Case c{67, 1031, 1031, 1e-3};
    const Tensor start = tensor(random_values(c.rows * c.columns, "x"), {c.rows, c.columns});
    const Tensor target_tensor = indices(targets_for(c), {c.rows});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        Tensor logits = tensor(start.values<float>(), start.shape());
        Tensor a = Tensor::empty({c.rows}, DType::f32, *allocator_),
               b = Tensor::empty({c.rows}, DType::f32, *allocator_),
               t = Tensor::empty({c.rows}, DType::f32, *allocator_);
        kernels::cross_entropy_local(a.out(), b.out(), t.out(), logits.in(), target_tensor.in(),
                                     {.valid_columns = 1031}, stream);
        kernels::cross_entropy_backward(logits.out(), tensor({1.0f}, {1}).in(), a.in(),
                                        target_tensor.in(), {.valid_columns = 1031, .z_loss = 1e-3},
                                        stream);
        auto all = logits.values<float>();
        const auto sums = b.values<float>();
        all.insert(all.end(), sums.begin(), sums.end());
        return all;
    });
}

// The mutant: each thread adds its part of the columns, and the parts are combined.
TEST_F(CrossEntropyTest, ColumnsCutAmongThreadsChangeBits) {
    const Case c{67, 840, 840, 0.0};
    const auto x = random_values(c.rows * c.columns, "x");
    const Tensor target_tensor = indices(targets_for(c), {c.rows});
    expect_threads_change_bits([&](Stream& stream) {
        const int64_t parts = stream.pool().threads(), count = c.columns / parts;
        Tensor facts = Tensor::empty({parts, 3, c.rows}, DType::f32, *allocator_);
        for (int64_t part = 0; part < parts; ++part) {
            std::vector<float> columns;
            for (int64_t r = 0; r < c.rows; ++r)
                for (int64_t i = part * count; i < (part + 1) * count; ++i)
                    columns.push_back(x[static_cast<size_t>(r * c.columns + i)]);
            const Tensor of_part = facts.rows(part, part + 1).reshape({3, c.rows});
            Tensor largest = of_part.rows(0, 1), sum = of_part.rows(1, 2), t = of_part.rows(2, 3);
            kernels::cross_entropy_local(largest.out(), sum.out(), t.out(),
                                         tensor(columns, {c.rows, count}).in(), target_tensor.in(),
                                         {.first_column = part * count, .valid_columns = c.valid},
                                         stream);
        }
        Tensor all = Tensor::empty({3, c.rows}, DType::f32, *allocator_);
        Tensor largest = all.rows(0, 1), sum = all.rows(1, 2), t = all.rows(2, 3);
        kernels::cross_entropy_combine(largest.out(), sum.out(), t.out(), facts.in(), stream);
        return all.values<float>();
    });
}

}  // namespace
}  // namespace plinth::test
