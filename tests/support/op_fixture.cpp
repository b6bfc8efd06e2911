// SPDX-License-Identifier: Apache-2.0
#include "tests/support/op_fixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/runtime/error.h"
#include "kernels/runtime/philox.h"

namespace plinth::test {

namespace {
constexpr size_t guard_bytes = 256;
constexpr unsigned char guard = 0xA5;

bool is_broken(const void* block, size_t bytes) {
    const auto* payload = static_cast<const unsigned char*>(block);
    for (size_t i = 0; i < guard_bytes; ++i)
        if (payload[bytes + i] != guard || payload[-1 - static_cast<ptrdiff_t>(i)] != guard)
            return true;
    return false;
}
}  // namespace

void* GuardedMemory::allocate(size_t bytes) {
    auto* block = static_cast<unsigned char*>(
        std::aligned_alloc(64, (bytes + 2 * guard_bytes + 63) / 64 * 64));
    std::memset(block, guard, guard_bytes);
    std::memset(block + guard_bytes, 0xFF, bytes);  // NaN: reading before writing shows
    std::memset(block + guard_bytes + bytes, guard, guard_bytes);
    blocks_[block + guard_bytes] = bytes;
    return block + guard_bytes;
}

void GuardedMemory::free(void* block, size_t bytes) {
    broken_when_freed_ += is_broken(block, bytes);
    blocks_.erase(block);
    std::free(static_cast<unsigned char*>(block) - guard_bytes);
}

int GuardedMemory::broken_guards() const {
    int broken = broken_when_freed_;
    for (const auto& [block, bytes] : blocks_)
        broken += is_broken(block, bytes);
    return broken;
}

void GradientMap::add(core::Parameter& parameter, int use, FunctionRef<void(View)> product) {
    core::Tensor gradient = core::Tensor::empty(parameter.padded_shape(), DType::f32, allocator_)
                                .rows(0, parameter.local_shape()[0]);
    product(gradient.out());
    core::Tensor& sum = gradients_[{&parameter, use}];
    if (!sum.defined()) {
        sum = gradient;
        return;
    }
    for (int64_t i = 0; i < sum.elements(); ++i)
        sum.data<float>()[i] += gradient.data<float>()[i];
}

std::vector<double> GradientMap::of(const core::Parameter& parameter) const {
    std::vector<double> sum(static_cast<size_t>(parameter.local_elements()), 0.0);
    for (const auto& [key, gradient] : gradients_) {
        if (key.first != &parameter) continue;
        for (size_t i = 0; i < sum.size(); ++i)
            sum[i] += static_cast<double>(gradient.in().as<float>()[i]);
    }
    return sum;
}

std::vector<float> random_values(int64_t n, const std::string& name) {
    const RandomKey key(7, name);
    std::vector<float> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(static_cast<double>(key.words(i)[0]) * 0x1p-31 - 1.0);
    return values;
}

std::vector<float> rounded_to_bf16(std::vector<float> values) {
    for (float& value : values)
        value = static_cast<float>(BFloat16(value));
    return values;
}

std::vector<double> to_doubles(const core::Tensor& tensor) {
    std::vector<double> values(static_cast<size_t>(tensor.elements()));
    const ConstView view = tensor.in();
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = view.dtype == DType::f32
                        ? static_cast<double>(view.as<float>()[i])
                        : static_cast<double>(static_cast<float>(view.as<BFloat16>()[i]));
    return values;
}

double norm_error(const std::vector<double>& actual, const std::vector<double>& expected) {
    CHECK(actual.size() == expected.size(), "{} values against {}", actual.size(), expected.size());
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < actual.size(); ++i) {
        difference += std::pow(actual[i] - expected[i], 2);
        size += std::pow(expected[i], 2);
    }
    return std::sqrt(difference / size);
}

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double tolerance, const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    double worst = 0.0;
    size_t at = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
        const double error = std::abs(actual[i] - expected[i]) / (std::abs(expected[i]) + 1.0);
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    EXPECT_TRUE(worst <= tolerance)
        << what << ": element " << at << " is " << actual[at] << ", expected " << expected[at]
        << " (error " << worst << ", tolerance " << tolerance << ")";
}

OpTest::OpTest(int threads)
    : allocator_(std::make_unique<CachingAllocator>(memory_, CachingAllocator::Rounding::none)),
      stream_(threads) {
    step_.seed = 42;
    sink_ = std::make_unique<GradientMap>(*allocator_);
}

OpTest::~OpTest() {
    EXPECT_EQ(memory_.broken_guards(), 0) << "a kernel wrote past the end of its output";
}

core::Tensor OpTest::tensor(const std::vector<float>& values, const Shape& shape, DType dtype) {
    if (dtype == DType::f32) return core::Tensor::of(values, shape, *allocator_);
    std::vector<BFloat16> narrow(values.size());
    for (size_t i = 0; i < values.size(); ++i)
        narrow[i] = BFloat16(values[i]);
    return core::Tensor::of(narrow, shape, *allocator_);
}

core::Tensor OpTest::indices(const std::vector<int32_t>& values, const Shape& shape) {
    return core::Tensor::of(values, shape, *allocator_);
}

core::Parameter& OpTest::parameter(const std::string& name, const Shape& shape, double scale) {
    auto made = std::make_unique<core::Parameter>(core::Parameter::Spec{
        .name = name, .shape = shape, .init = core::Init::zeros(), .decay = true});
    std::vector<float> values = random_values(shape.elements(), name);
    for (float& value : values)
        value = static_cast<float>(scale * static_cast<double>(value));
    made->materialize(tensor(values, shape));
    made->set_sink(sink_.get());
    made->add_use();
    parameters_.push_back(std::move(made));
    return *parameters_.back();
}

core::Scope::Settings OpTest::settings(core::Tape* tape) {
    return {.stream = &stream_,
            .allocator = allocator_.get(),
            .tape = tape,
            .step = &step_,
            .training = training_,
            .compute = compute_};
}

std::vector<double> OpTest::run(const Function& f, const std::vector<core::Tensor>& inputs) {
    const core::Scope scope(settings(nullptr));
    return to_doubles(f(inputs));
}

double OpTest::projected(const Function& f, const std::vector<core::Tensor>& inputs) {
    const std::vector<double> y = run(f, inputs);
    const std::vector<float> r = random_values(static_cast<int64_t>(y.size()), "projection");
    double sum = 0.0;
    for (size_t i = 0; i < y.size(); ++i)
        sum += y[i] * static_cast<double>(r[i]);
    return sum;
}

OpTest::Gradients OpTest::gradients(const Function& f, std::vector<core::Tensor> inputs) {
    core::Tape tape;
    const core::Scope scope(settings(&tape));
    sink_->clear();
    for (core::Tensor& input : inputs)
        if (input.dtype() != DType::i32 && input.dtype() != DType::i64) tape.watch(input);
    const core::Tensor y = f(inputs);
    const std::vector<float> r = random_values(y.elements(), "projection");
    core::Tensor dy = tensor(r, y.shape(), y.dtype());
    Gradients result;
    for (core::Tensor& gradient : tape.backward({{y, std::move(dy)}}, inputs))
        result.inputs.push_back(gradient.defined() ? to_doubles(gradient) : std::vector<double>{});
    for (const auto& made : parameters_)
        result.parameters[made->name()] = sink_->of(*made);
    return result;
}

void OpTest::expect_gradients_match_differences(const Function& f, std::vector<core::Tensor> inputs,
                                                double step, double tolerance) {
    const Gradients analytic = gradients(f, inputs);
    const auto check = [&](core::Tensor& moved, const std::vector<double>& gradient,
                           const std::string& what, const std::function<void()>& changed) {
        const std::vector<float> start(moved.data<float>(), moved.data<float>() + moved.elements());
        for (int trial = 0; trial < 3; ++trial) {
            const std::vector<float> direction =
                random_values(moved.elements(), what + " direction " + std::to_string(trial));
            const auto value_at = [&](double distance) {
                for (size_t i = 0; i < start.size(); ++i)
                    moved.data<float>()[i] =
                        start[i] + static_cast<float>(distance * static_cast<double>(direction[i]));
                changed();
                return projected(f, inputs);
            };
            const double difference = (value_at(step) - value_at(-step)) / (2 * step);
            value_at(0.0);
            double expected = 0.0, size = 0.0;
            for (size_t i = 0; i < gradient.size(); ++i) {
                expected += gradient[i] * static_cast<double>(direction[i]);
                size += gradient[i] * gradient[i];
            }
            EXPECT_NEAR(difference, expected, tolerance * (std::sqrt(size) + 0.1))
                << what << ", trial " << trial;
        }
    };
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (analytic.inputs[i].empty()) continue;
        check(inputs[i], analytic.inputs[i], "input " + std::to_string(i), [] {});
    }
    for (const auto& made : parameters_)
        check(made->master(), analytic.parameters.at(made->name()), made->name(),
              [&] { made->changed(); });
}

void OpTest::expect_bf16_gradients_follow_fp32(const Function& f,
                                               const std::vector<core::Tensor>& inputs,
                                               double tolerance, const Function& wrong) {
    using Named = std::map<std::string, std::vector<double>>;
    const auto gradients_in = [&](DType dtype, const Function& function) {
        std::vector<core::Tensor> typed;
        for (const core::Tensor& input : inputs)
            typed.push_back(
                input.dtype() == DType::f32
                    ? tensor(rounded_to_bf16(input.values<float>()), input.shape(), dtype)
                    : input);
        compute_ = dtype;
        Gradients found = gradients(function, typed);
        compute_ = DType::f32;
        Named named = std::move(found.parameters);
        for (size_t i = 0; i < found.inputs.size(); ++i)
            if (!found.inputs[i].empty()) named[fmt::format("input {}", i)] = found.inputs[i];
        return named;
    };
    const Named wide = gradients_in(DType::f32, f), narrow = gradients_in(DType::bf16, f);
    double largest_of_wrong = 0.0;
    const Named mutant = wrong ? gradients_in(DType::bf16, wrong) : Named{};
    for (const auto& [name, expected] : wide) {
        const double error = norm_error(narrow.at(name), expected);
        EXPECT_LE(error, tolerance) << name;
        std::vector<double> holed = narrow.at(name);
        for (size_t i = 0; i < holed.size(); i += 5)
            holed[i] = 0.0;
        EXPECT_GT(norm_error(holed, expected), tolerance) << name << ": lost elements unseen";
        if (wrong)
            largest_of_wrong = std::max(largest_of_wrong, norm_error(mutant.at(name), expected));
    }
    if (wrong) {
        EXPECT_GT(largest_of_wrong, tolerance) << "another function's gradients pass";
    }
}

}  // namespace plinth::test
