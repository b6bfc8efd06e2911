// SPDX-License-Identifier: Apache-2.0
// Linear layers with 8-bit operands, against the same products of numbers that went through 8 bits
// by the definition of the formats. M rows, N outputs, K inputs.
#include "core/ops/fp8.h"

#include <algorithm>
#include <limits>

#include "core/autograd/delayed_scaling.h"
#include "core/ops/gelu.h"
#include "core/ops/gelu_mlp.h"
#include "tests/support/expect_error.h"
#include "tests/support/fp8_oracle.h"
#include "tests/support/late_queue.h"
#include "tests/support/same_bits.h"
#include "tests/unit/ops/layer_run.h"

namespace plinth::test {
namespace {

using core::Fp8Request;
using core::Fp8Role;
using core::Fp8Source;
using core::Fp8Tensor;
using core::Parameter;
using core::Tensor;
using kernels::Fp8;

constexpr int64_t M = 48, N = 64, K = 80;

/// By three loops in double, row-major: a[m,k] b[n,k]^T.
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t m,
                            int64_t n, int64_t k) {
    std::vector<double> c(static_cast<size_t>(m * n), 0.0);
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j)
            for (int64_t l = 0; l < k; ++l)
                c[static_cast<size_t>(i * n + j)] +=
                    a[static_cast<size_t>(i * k + l)] * b[static_cast<size_t>(j * k + l)];
    return c;
}

std::vector<double> transposed(const std::vector<double>& a, int64_t rows, int64_t columns) {
    std::vector<double> t(a.size());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            t[static_cast<size_t>(j * rows + i)] = a[static_cast<size_t>(i * columns + j)];
    return t;
}

/// Passes on what another source gives, with one thing wrong.
class Altered final : public Fp8Source {
  public:
    enum class Fault { none, other_formats, forgotten_scale, stale_weight, one_layout_for_both };
    Altered(Fp8Source& sound, Fault fault, CachingAllocator& allocator)
        : sound_(sound), fault_(fault), allocator_(allocator) {}

    Fp8Tensor quantize(const Fp8Request& request, const Tensor& x) override {
        if (fault_ == Fault::other_formats) return in_the_other_format(request, x);
        return altered(sound_.quantize(request, x));
    }
    Fp8Tensor weight(Parameter& weight, bool transposed) override {
        Fp8Tensor found = sound_.weight(weight, transposed);
        if (!first_.transposed.defined() && found.transposed.defined())
            first_.transposed = Tensor::of(found.transposed.values<uint8_t>(),
                                           found.transposed.shape(), allocator_);
        if (fault_ == Fault::stale_weight) found.transposed = first_.transposed;
        return altered(std::move(found));
    }

  private:
    Fp8Tensor altered(Fp8Tensor tensor) {
        if (fault_ == Fault::forgotten_scale)
            tensor.scale = Tensor::of<float>({1.0f}, {1}, allocator_);
        // Has the elements of the other layout where both have one shape.
        if (fault_ == Fault::one_layout_for_both && tensor.transposed.defined() &&
            tensor.bits.defined())
            tensor.transposed = tensor.bits.reshape(tensor.transposed.shape());
        return tensor;
    }
    Fp8Tensor in_the_other_format(const Fp8Request& request, const Tensor& x) {
        const Fp8 format = request.role == Fp8Role::gradient ? Fp8::e4m3 : Fp8::e5m2;
        Stream stream(1);
        Fp8Tensor made{.bits = Tensor::empty(x.shape(), DType::u8, allocator_),
                       .transposed = Tensor::empty({x.dim(1), x.dim(0)}, DType::u8, allocator_),
                       .scale = Tensor::empty({1}, DType::f32, allocator_),
                       .format = format};
        kernels::fp8_scale(made.scale.out(), x.in(), {}, format, stream);
        kernels::fp8_quantize(made.bits.out(), made.transposed.out(), {}, x.in(), made.scale.in(),
                              format, stream);
        return made;
    }

    Fp8Source& sound_;
    Fault fault_;
    CachingAllocator& allocator_;
    Fp8Tensor first_;
};

class Fp8LinearTest : public LayerTest {
  protected:
    Parameter& fp8_parameter(const std::string& name, const Shape& shape) {
        Parameter& made = parameter(name, shape);
        made.set_takes_fp8();
        return made;
    }
    Tensor input(int64_t rows = M, int64_t columns = K) {
        return tensor(random_values(rows * columns, "x"), {1, rows, columns}, DType::bf16);
    }
    core::Scope::Settings settings(Stream& stream, Fp8Source* source) {
        return {.stream = &stream,
                .allocator = allocator_.get(),
                .compute = DType::bf16,
                .fp8 = source};
    }

    core::DelayedScaling delayed_scaling(std::vector<std::string> weights) {
        return {core::DelayedScaling::Memory{.weights = *allocator_, .late = *allocator_},
                /*keeps_weights=*/true, core::Fp8History(std::move(weights), *allocator_, stream_)};
    }
    /// As if the ranks had seen these in the step.
    void remember(core::DelayedScaling& delayed, const std::vector<float>& seen) {
        auto* words = delayed.step_words(stream_).data<int64_t>();
        for (size_t i = 0; i < seen.size(); ++i)
            words[i] = std::bit_cast<uint32_t>(seen[i]);
        delayed.push({}, stream_);
    }

    LayerResult differentiate(const Layer& layer, const Tensor& x, Fp8Source& source,
                              const LayerRun& run = {}) {
        return LayerTest::differentiate(layer, x, run, &source);
    }

    /// What `linear` of the first two parameters must give.
    LayerResult expected_linear() {
        const auto x = through_fp8(rounded_to_bf16(random_values(M * K, "x")), Fp8::e4m3);
        const auto w =
            through_fp8(rounded_to_bf16(parameters_[0]->master().values<float>()), Fp8::e4m3);
        const auto dy_given = rounded_to_bf16(random_values(M * N, "dy"));
        const auto dy = through_fp8(dy_given, Fp8::e5m2);
        const auto bias = parameters_[1]->master().values<float>();
        LayerResult result{.y = product(x, w, M, N, K),
                           .dx = product(dy, transposed(w, N, K), M, K, N),
                           .parameters = {}};
        std::vector<double> dbias(static_cast<size_t>(N), 0.0);
        for (size_t i = 0; i < result.y.size(); ++i) {
            const size_t column = i % static_cast<size_t>(N);
            result.y[i] += static_cast<double>(bias[column]);
            dbias[column] += static_cast<double>(dy_given[i]);
        }
        result.parameters["weight"] = product(transposed(dy, M, N), transposed(x, M, K), N, K, M);
        result.parameters["bias"] = dbias;
        return result;
    }
    Layer linear() {
        return [this](const Tensor& x) {
            return core::ops::linear(x, {*parameters_[0]}, parameters_[1].get());
        };
    }
    void declare_linear() {
        parameters_.clear();
        fp8_parameter("weight", {N, K});
        parameter("bias", {N});
    }
    /// How far a result is from what it must be: y and dx are rounded to bf16, gradients of
    /// weights are not.
    static bool is_as_expected(const LayerResult& found, const LayerResult& expected) {
        return norm_error(found.y, expected.y) < 3e-3 && norm_error(found.dx, expected.dx) < 3e-3 &&
               norm_error(found.parameters.at("weight"), expected.parameters.at("weight")) < 1e-5 &&
               norm_error(found.parameters.at("bias"), expected.parameters.at("bias")) < 1e-5;
    }

    core::CurrentScaling source_{*allocator_, true};
};

TEST_F(Fp8LinearTest, HasTheProductsOfTheQuantizedOperands) {
    declare_linear();
    const LayerResult expected = expected_linear();
    core::CurrentScaling at_each_use(*allocator_, false);
    for (core::CurrentScaling* source : {&source_, &at_each_use}) {
        const LayerResult found = differentiate(linear(), input(), *source);
        EXPECT_LT(norm_error(found.y, expected.y), 3e-3);
        EXPECT_LT(norm_error(found.dx, expected.dx), 3e-3);
        for (const char* name : {"weight", "bias"})
            EXPECT_LT(norm_error(found.parameters.at(name), expected.parameters.at(name)), 1e-5)
                << name;
        EXPECT_TRUE(is_as_expected(found, expected));
    }
}

TEST_F(Fp8LinearTest, MutantsAreSeen) {
    declare_linear();
    const LayerResult expected = expected_linear();
    using enum Altered::Fault;
    for (const auto fault : {none, other_formats, forgotten_scale, one_layout_for_both}) {
        Altered source(source_, fault, *allocator_);
        EXPECT_EQ(is_as_expected(differentiate(linear(), input(), source), expected), fault == none)
            << static_cast<int>(fault);
    }
    // bf16's own products are another function: FP8 is really there.
    parameters_.clear();
    parameter("weight", {N, K});
    parameter("bias", {N});
    EXPECT_FALSE(is_as_expected(differentiate(linear(), input(), source_), expected));
}

TEST_F(Fp8LinearTest, AWeightIsQuantizedOnceAStep) {
    declare_linear();
    const LayerResult first = differentiate(linear(), input(), source_);
    Altered stale(source_, Altered::Fault::stale_weight, *allocator_);
    differentiate(linear(), input(), stale);
    auto* weight = parameters_[0]->master().data<float>();
    for (int64_t i = 0; i < N * K; ++i)
        weight[i] *= i % 3 == 0 ? 2.0f : 1.0f;
    parameters_[0]->changed();
    EXPECT_EQ(differentiate(linear(), input(), source_), first) << "within the step";
    source_.begin_step(stream_);
    const LayerResult second = differentiate(linear(), input(), source_);
    EXPECT_TRUE(is_as_expected(second, expected_linear()));
    EXPECT_FALSE(is_as_expected(differentiate(linear(), input(), stale), expected_linear()))
        << "a transposed copy of the step before is not seen";
    core::CurrentScaling at_each_use(*allocator_, false);
    EXPECT_EQ(differentiate(linear(), input(), at_each_use), second);
}

TEST_F(Fp8LinearTest, CapturedProductsReadTheWeightOfTheirStep) {
    declare_linear();
    core::Scope::Settings around = settings(stream_, &source_);
    const core::Scope scope(around);
    const Tensor x = input();
    const auto product = [&] { return linear()(x); };
    const auto make_weight = [&] { source_.weight(*parameters_[0], false); };
    make_weight();
    product();  // makes the copy of the bias, too
    Tensor y;
    const auto graph = stream_.capture([&] { y = product(); });
    for (int step = 0; step < 3; ++step) {
        auto* weight = parameters_[0]->master().data<float>();
        for (int64_t i = 0; i < N * K; ++i)
            weight[i] *= i % 3 == 0 ? 2.0f : 1.0f;
        parameters_[0]->changed();
        source_.begin_step(stream_);
        graph->launch();
        const auto stale = to_doubles(y);
        make_weight();
        graph->launch();
        EXPECT_EQ(to_doubles(y), to_doubles(product()));
        EXPECT_NE(to_doubles(y), stale) << "a weight of the step before is not seen";
    }
}

TEST_F(Fp8LinearTest, WhatIsKeptChangesNoBit) {
    declare_linear();
    const LayerResult expected = differentiate(linear(), input(), source_);
    for (const bool later : {false, true})
        for (const bool is_kept : {false, true})
            EXPECT_EQ(
                differentiate(linear(), input(), source_, {.later = later, .is_kept = is_kept}),
                expected)
                << later << is_kept;
    EXPECT_EQ(differentiate(linear(), input(), source_, {.watch = false}).parameters,
              expected.parameters);
    EXPECT_EQ(differentiate(linear(), input(), source_, {.is_recorded = false}).y, expected.y);
    for (int threads = 1; threads <= 8; ++threads)
        EXPECT_EQ(differentiate(linear(), input(), source_, {.threads = threads}), expected);
}

TEST_F(Fp8LinearTest, KeepsAByteAnElementUnlessTheInputIsKeptAnyway) {
    declare_linear();
    const size_t scale = sizeof(float);
    EXPECT_EQ(differentiate(linear(), input(), source_).kept, static_cast<size_t>(M * K) + scale);
    EXPECT_EQ(differentiate(linear(), input(), source_, {.is_kept = true}).kept, scale);
    EXPECT_EQ(differentiate(linear(), input(), source_, {.is_recorded = false}).kept, 0u);
}

TEST_F(Fp8LinearTest, ExtentsThatAreNoMultiplesAreRefusedByName) {
    const auto refused = [&](int64_t rows, int64_t outputs, int64_t inputs) {
        parameters_.clear();
        fp8_parameter("blocks.0.mlp.up.weight", {outputs, inputs});
        parameter("bias", {outputs});
        expect_error(
            ErrorKind::internal,
            [&] {
                const core::Scope scope(settings(stream_, &source_));
                linear()(input(rows, inputs));
            },
            "blocks.0.mlp.up.weight", "multiples of 16");
    };
    refused(24, 32, 32);
    refused(32, 40, 32);
    refused(32, 32, 8);
}

TEST_F(Fp8LinearTest, WhatIsNotFiniteIsSeenInTheResult) {
    declare_linear();
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        auto values = random_values(M * K, "x");
        values[100] = bad;
        const core::Scope scope(settings(stream_, &source_));
        const auto y = to_doubles(linear()(tensor(values, {M, K}, DType::bf16)));
        EXPECT_TRUE(std::isnan(y[static_cast<size_t>(100 / K * N)])) << bad;
    }
}

// --- the MLP ------------------------------------------------------------------------------------

TEST_F(Fp8LinearTest, TheMlpHasTheBitsOfItsParts) {
    fp8_parameter("up", {N, K});
    parameter("up bias", {N});
    fp8_parameter("down", {K, N});
    parameter("down bias", {K});
    const core::ops::LinearUse up{{*parameters_[0]}, parameters_[1].get()},
        down{{*parameters_[2]}, parameters_[3].get()};
    for (const auto form : {kernels::Gelu::tanh, kernels::Gelu::erf}) {
        const Layer composed = [&](const Tensor& x) {
            const Tensor hidden = core::ops::gelu(core::ops::linear(x, up.weight, up.bias), form);
            return core::ops::linear(hidden, down.weight, down.bias);
        };
        const Layer fused = [&](const Tensor& x) { return core::ops::gelu_mlp(x, up, down, form); };
        const LayerResult expected = differentiate(composed, input(), source_);
        for (const auto& [remake, hidden] :
             std::vector<std::pair<bool, bool>>{{false, false}, {true, false}, {true, true}})
            for (const bool later : {false, true}) {
                const LayerRun run{.remake = remake, .remake_hidden = hidden, .later = later};
                EXPECT_EQ(differentiate(fused, input(), source_, run), expected) << remake << later;
                EXPECT_EQ(differentiate(composed, input(), source_, run), expected)
                    << remake << later;
            }
        EXPECT_EQ(differentiate(fused, input(), source_, {.watch = false}).parameters,
                  expected.parameters);
        EXPECT_EQ(differentiate(fused, input(), source_, {.is_recorded = false}).y, expected.y);
    }
    // The hidden layer before GELU; x and GELU's result in 8 bits or, remade, only x.
    const Layer fused = [&](const Tensor& x) {
        return core::ops::gelu_mlp(x, up, down, kernels::Gelu::tanh);
    };
    const size_t hidden = static_cast<size_t>(M * N), x = static_cast<size_t>(M * K);
    EXPECT_EQ(differentiate(fused, input(), source_).kept, 2 * hidden + hidden + x + 8);
    EXPECT_EQ(differentiate(fused, input(), source_, {.remake = true}).kept, 2 * hidden + x + 8);
    const LayerRun no_hidden{.remake = true, .remake_hidden = true};
    EXPECT_EQ(differentiate(fused, input(), source_, no_hidden).kept, x + 8);
}

// --- delayed scaling ----------------------------------------------------------------------------

TEST_F(Fp8LinearTest, DelayedScalesAreThoseOfTheStepsBefore) {
    declare_linear();
    core::DelayedScaling delayed = delayed_scaling({"another", "weight"});
    delayed.begin_step(stream_);
    const LayerResult first = differentiate(linear(), input(), delayed);
    EXPECT_EQ(first, differentiate(linear(), input(), source_)) << "nothing is known: current";
    const auto index = [&](Fp8Role role) { return delayed.history().index_of("weight", role); };
    std::vector<float> seen = delayed.largest(stream_);
    ASSERT_EQ(seen.size(), 6u);
    const auto largest_of_all = [](const std::vector<float>& values) {
        float most = 0.0f;
        for (const float value : values)
            most = std::max(most, std::abs(value));
        return most;
    };
    EXPECT_EQ(seen[index(Fp8Role::input)],
              largest_of_all(rounded_to_bf16(random_values(M * K, "x"))));
    EXPECT_EQ(seen[index(Fp8Role::weight)],
              largest_of_all(rounded_to_bf16(parameters_[0]->master().values<float>())));
    EXPECT_EQ(seen[index(Fp8Role::gradient)],
              largest_of_all(rounded_to_bf16(random_values(M * N, "dy"))));
    EXPECT_EQ(seen[0], 0.0f);  // of another weight, which is not here

    // A step whose inputs were half as large: now they saturate.
    seen[index(Fp8Role::input)] /= 2;
    const float remembered = seen[index(Fp8Role::input)];
    remember(delayed, seen);
    delayed.begin_step(stream_);
    const LayerResult second = differentiate(linear(), input(), delayed);
    EXPECT_NE(second.y, first.y);
    const auto x = through_fp8(rounded_to_bf16(random_values(M * K, "x")), Fp8::e4m3, remembered);
    const auto w =
        through_fp8(rounded_to_bf16(parameters_[0]->master().values<float>()), Fp8::e4m3);
    auto expected = product(x, w, M, N, K);
    for (size_t i = 0; i < expected.size(); ++i)
        expected[i] += static_cast<double>(
            parameters_[1]->master().values<float>()[i % static_cast<size_t>(N)]);
    EXPECT_LT(norm_error(second.y, expected), 3e-3);
    EXPECT_EQ(delayed.largest(stream_)[index(Fp8Role::input)], 2 * remembered);
}

// The host learns late, or never, of what is known: no bit depends on it. The mutant takes a scale
// of which nothing is known.
TEST_F(Fp8LinearTest, WhatTheHostKnowsOfDelayedScalesChangesNoBit) {
    declare_linear();
    const auto train = [&](size_t late, const std::vector<float>& seen) {
        core::DelayedScaling delayed = delayed_scaling({"weight"});
        std::vector<QueueCall> calls;
        Stream stream(1);
        stream.set_queue(std::make_unique<LateQueue>(calls));
        std::pair<std::vector<LayerResult>, std::vector<bool>> result;
        for (size_t step = 0; step < 20; ++step) {
            delayed.begin_step(stream);
            result.second.push_back(delayed.all_are_known());
            result.first.push_back(differentiate(linear(), input(), delayed));
            remember(delayed, step == 0 ? seen : std::vector<float>(3, 0.0f));
            if (late > 0 && step % late == 0) stream.synchronize();
        }
        return result;
    };
    const auto [always, known] = train(1, {0.5f, 0.7f, 0.25f});
    EXPECT_NE(always[0].y, always[1].y);
    EXPECT_EQ(always[1].y, always[16].y);
    EXPECT_NE(always[16].y, always[17].y) << "only zeros are known";
    EXPECT_EQ(always[0].y, always[17].y);
    // Each word arrives one step late: the second says so to the third.
    for (size_t step = 0; step < known.size(); ++step)
        EXPECT_EQ(known[step], step >= 2 && step <= 16) << step;
    for (const size_t late : {0u, 2u, 7u}) {
        const auto [results, sure] = train(late, {0.5f, 0.7f, 0.25f});
        EXPECT_TRUE(results == always) << late;
        EXPECT_NE(sure, known) << late;
        EXPECT_FALSE(sure[17]);
        EXPECT_EQ(std::ranges::count(sure, true) > 0, late > 0) << late;
    }
    const auto [partly, never] = train(1, {0.5f, 0.0f, 0.25f});
    EXPECT_EQ(std::ranges::count(never, true), 0) << "of the weight nothing is known";
    EXPECT_TRUE(partly != always);
}

TEST_F(Fp8LinearTest, ARestoredHistoryMayKnowLess) {
    declare_linear();
    core::DelayedScaling delayed = delayed_scaling({"weight"});
    std::vector<QueueCall> calls;
    Stream stream(1);
    stream.set_queue(std::make_unique<LateQueue>(calls));
    const std::string nothing = delayed.history().text(stream);
    std::vector<LayerResult> results;
    for (int step = 0; step < 4; ++step) {
        if (step == 3) {
            ASSERT_TRUE(delayed.all_are_known());
            delayed.restore(nothing, "it", stream);
        }
        delayed.begin_step(stream);
        results.push_back(differentiate(linear(), input(), delayed));
        remember(delayed, {0.5f, 0.7f, 0.25f});
        stream.synchronize();
    }
    EXPECT_NE(results[0].y, results[2].y);
    EXPECT_EQ(results[0].y, results[3].y);
}

TEST_F(Fp8LinearTest, DelayedScalingKeepsWhatIsNotFiniteInItsMaxima) {
    declare_linear();
    core::DelayedScaling delayed = delayed_scaling({"weight"});
    delayed.begin_step(stream_);
    remember(delayed, {1.0f, 1.0f, 1.0f});
    delayed.begin_step(stream_);
    auto values = random_values(M * K, "x");
    values[100] = std::numeric_limits<float>::infinity();
    const core::Scope scope(settings(stream_, &delayed));
    for (const double y : to_doubles(linear()(tensor(values, {M, K}, DType::bf16))))
        ASSERT_TRUE(std::isfinite(y)) << "the scale of the past hides it";
    EXPECT_TRUE(std::isinf(delayed.largest(stream_)[0]));
}

}  // namespace
}  // namespace plinth::test
