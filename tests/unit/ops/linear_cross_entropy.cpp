// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/ops/cross_entropy.h"
#include "tests/support/central_differences.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;

constexpr int64_t width = 24, columns = 40, valid = 37;

struct Result {
    double loss = 0.0;
    int64_t weight = 0, correct = 0;
    std::vector<double> dx, dweight;
    size_t peak = 0;  ///< bytes of tensors beyond those given
    bool operator==(const Result& other) const {
        return loss == other.loss && weight == other.weight && correct == other.correct &&
               dx == other.dx && dweight == other.dweight;
    }
};

class LinearCrossEntropyTest : public OpTest {
  protected:
    Parameter& weight() {
        if (parameters_.empty()) parameter("head", {columns, width});
        return *parameters_[0];
    }
    static std::vector<int32_t> targets_for(int64_t rows) {
        std::vector<int32_t> targets;
        for (int64_t r = 0; r < rows; ++r)
            targets.push_back(r % 5 == 3 ? -100 : static_cast<int32_t>((r * 7 + 3) % valid));
        return targets;
    }
    Tensor input(int64_t rows, DType dtype) {
        auto values = random_values(rows * width, "x");
        for (float& value : values)
            value *= 3.0f;
        return tensor(values, {1, rows, width}, dtype);
    }

    /// In chunks, or as the composition of two ops.
    Result differentiate(bool in_chunks, Tensor x, const std::vector<int32_t>& targets,
                         Stream& stream, float dloss = 1.0f, double z_loss = 1e-3) {
        const core::ops::CrossEntropyOptions options{.valid_columns = valid, .z_loss = z_loss};
        const Tensor labels = indices(targets, {1, static_cast<int64_t>(targets.size())});
        Parameter& head = weight();
        sink_->clear();
        core::Tape tape;
        const core::Scope scope({.stream = &stream,
                                 .allocator = allocator_.get(),
                                 .tape = &tape,
                                 .compute = x.dtype()});
        head.acquire(x.dtype());
        tape.watch(x);
        const size_t before = allocator_->use().in_use;
        const core::ops::Loss loss =
            in_chunks ? core::ops::linear_cross_entropy(x, {head}, labels, options)
                      : core::ops::cross_entropy(core::ops::linear(x, {head}), labels, options);
        Result result{*loss.sum.in().as<double>(), *loss.weight.in().as<int64_t>(),
                      *loss.correct.in().as<int64_t>()};
        const auto dx = tape.backward({{loss.sum, tensor({dloss}, {1})}}, {&x, 1});
        result.peak = allocator_->use().peak - before;
        result.dx = to_doubles(dx[0]);
        result.dweight = sink_->of(head);
        return result;
    }
    Result differentiate(bool in_chunks, int64_t rows, DType dtype = DType::f32) {
        return differentiate(in_chunks, input(rows, dtype), targets_for(rows), stream_);
    }
};

TEST_F(LinearCrossEntropyTest, UpToOneChunkItHasTheBitsOfTheComposition) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t rows : {int64_t{1}, int64_t{67}, core::ops::logit_rows}) {
            const Result whole = differentiate(false, rows, dtype);
            EXPECT_EQ(differentiate(true, rows, dtype), whole) << rows;
            auto targets = targets_for(rows);
            ++targets[0];
            EXPECT_NE(differentiate(true, input(rows, dtype), targets, stream_), whole) << rows;
        }
}

TEST_F(LinearCrossEntropyTest, ManyChunksSumToTheComposition) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t rows : {core::ops::logit_rows + 1, 2 * core::ops::logit_rows,
                             2 * core::ops::logit_rows + 452}) {
            const Result chunks = differentiate(true, rows, dtype),
                         whole = differentiate(false, rows, dtype);
            EXPECT_NEAR(chunks.loss, whole.loss, 1e-7 * whole.loss);
            EXPECT_EQ(chunks.weight, whole.weight);
            EXPECT_EQ(chunks.correct, whole.correct);
            expect_close(chunks.dx, whole.dx, dtype == DType::f32 ? 1e-6 : 1e-3, "dx");
            expect_close(chunks.dweight, whole.dweight, 1e-4, "dweight");
            // One chunk left out would show.
            const Result first = differentiate(true, core::ops::logit_rows, dtype);
            EXPECT_GT(std::abs(first.loss - whole.loss), 1e-4 * whole.loss);
            EXPECT_NE(first.dweight, chunks.dweight);
        }
}

/// One chunk, and a second one of a few rows.
TEST_F(LinearCrossEntropyTest, GradientsMatchFiniteDifferencesOfTheLoss) {
    constexpr double z_loss = 0.1, step = 1e-2, bound = 1e-3;
    for (const int64_t rows : {int64_t{11}, core::ops::logit_rows + 7}) {
        const int64_t x_stride = rows > 100 ? 401 : 1, weight_stride = rows > 100 ? 29 : 1;
        const auto targets = targets_for(rows);
        const Tensor labels = indices(targets, {1, rows});
        Tensor x = input(rows, DType::f32);
        Parameter& head = weight();
        const auto loss = [&] {
            const core::Scope scope({.stream = &stream_, .allocator = allocator_.get()});
            head.changed();
            return *core::ops::linear_cross_entropy(x, {head}, labels,
                                                    {.valid_columns = valid, .z_loss = z_loss})
                        .sum.in()
                        .as<double>();
        };
        const auto by_x = central_differences(x, loss, step, x_stride);
        const auto by_weight = central_differences(head.master(), loss, step, weight_stride);
        head.changed();
        const auto errors = [&](const std::vector<int32_t>& of_targets, double z) {
            const Result found =
                differentiate(true, input(rows, DType::f32), of_targets, stream_, 1.0f, z);
            return std::pair{
                norm_error(each(found.dx, static_cast<size_t>(x_stride)), by_x),
                norm_error(each(found.dweight, static_cast<size_t>(weight_stride)), by_weight)};
        };
        const auto [dx_error, dweight_error] = errors(targets, z_loss);
        EXPECT_LE(dx_error, bound) << rows << " rows";
        EXPECT_LE(dweight_error, bound) << rows << " rows";
        // Mutants: without the term of the z-loss, and with the labels that are ignored.
        auto all = targets;
        std::replace(all.begin(), all.end(), -100, 3);
        ASSERT_NE(all, targets);
        for (const auto& [dx_wrong, dweight_wrong] : {errors(targets, 0.0), errors(all, z_loss)}) {
            EXPECT_GT(dx_wrong, 10 * bound) << rows << " rows";
            EXPECT_GT(dweight_wrong, 10 * bound) << rows << " rows";
        }
    }
}

TEST_F(LinearCrossEntropyTest, WithoutATapeItHasTheSameLoss) {
    const int64_t rows = core::ops::logit_rows + 77;
    const Result recorded = differentiate(true, rows);
    const core::Scope scope({.stream = &stream_, .allocator = allocator_.get()});
    const core::ops::Loss loss = core::ops::linear_cross_entropy(
        input(rows, DType::f32), {weight()}, indices(targets_for(rows), {rows}),
        {.valid_columns = valid, .z_loss = 1e-3});
    EXPECT_EQ(*loss.sum.in().as<double>(), recorded.loss);
    EXPECT_EQ(*loss.correct.in().as<int64_t>(), recorded.correct);
}

TEST_F(LinearCrossEntropyTest, TheLogitsOfOneChunkExistAtATime) {
    const int64_t rows = 8 * core::ops::logit_rows;
    const size_t logits = static_cast<size_t>(rows * columns) * sizeof(float),
                 dx = static_cast<size_t>(rows * width) * sizeof(float);
    EXPECT_LT(differentiate(true, rows).peak, dx + logits / 2);
    EXPECT_GT(differentiate(false, rows).peak, dx + logits) << "the measure sees whole logits";
}

TEST_F(LinearCrossEntropyTest, ThreadsDoNotChangeBits) {
    const int64_t rows = core::ops::logit_rows + 300;
    expect_threads_do_not_change_bits([&](Stream& stream) {
        const Result found =
            differentiate(true, input(rows, DType::f32), targets_for(rows), stream);
        std::vector<double> all{found.loss, static_cast<double>(found.correct)};
        all.insert(all.end(), found.dx.begin(), found.dx.end());
        all.insert(all.end(), found.dweight.begin(), found.dweight.end());
        return all;
    });
}

TEST_F(LinearCrossEntropyTest, ATargetOutsideOfTheVocabularyIsNamedByItsRow) {
    const int64_t rows = core::ops::logit_rows + 20;
    auto targets = targets_for(rows);
    targets[static_cast<size_t>(rows) - 1] = valid;
    expect_error(
        ErrorKind::data, [&] { differentiate(true, input(rows, DType::f32), targets, stream_); },
        fmt::format("target {} of row {}", valid, rows - 1));
}

TEST_F(LinearCrossEntropyTest, AnotherGradientThanOneIsAnError) {
    expect_error(
        ErrorKind::internal,
        [&] { differentiate(true, input(3, DType::f32), targets_for(3), stream_, 0.5f); },
        "a gradient of 1");
}

}  // namespace
}  // namespace plinth::test
