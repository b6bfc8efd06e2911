// SPDX-License-Identifier: Apache-2.0
// Inputs that wait in pinned host memory, by the device's own copy engines: the bits of those that
// stay, in less of the device's memory.
#include "core/autograd/activation_store.h"

#include "core/autograd/recompute.h"
#include "core/ops/gelu.h"
#include "tests/gpu_parallel/device_buffers.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::ActivationStore;
using core::Tensor;

constexpr int64_t elements = int64_t{4} << 20;
constexpr int layers = 6;

struct Outcome {
    std::vector<float> dx;
    size_t peak = 0;  ///< bytes of the device
};

/// Micro-batches, two of them under way at a time.
Outcome outcome_of(bool stores) {
    Surroundings around(1, {DeviceType::cuda, 0});
    ActivationStore store(
        cuda_module().pinned_memory(),
        {.to_host = make_copy_engine(around.stream), .to_device = make_copy_engine(around.stream)});
    struct Flight {
        core::Tape tape;
        Tensor input;  ///< its place on the tape
        core::GradientEdge output;
    };
    std::vector<std::unique_ptr<Flight>> flights;
    const auto settings = [&](core::Tape* tape) {
        core::Scope::Settings result = around.settings(tape);
        if (stores) result.activations = &store;
        return result;
    };
    const auto ramp = [&](int number) {
        std::vector<float> values(static_cast<size_t>(elements));
        for (size_t i = 0; i < values.size(); ++i)
            values[i] = 0.001f * static_cast<float>(static_cast<int>(i % 977) - 400 + number);
        Tensor x = Tensor::of(values, {1, elements}, around.allocator, around.stream);
        around.stream.synchronize();  // `values` goes
        return x;
    };
    Outcome outcome;
    for (int number = 0; number < 5; ++number) {
        if (number < 4) {
            flights.push_back(std::make_unique<Flight>());
            Flight& flight = *flights.back();
            const core::Scope scope(settings(&flight.tape));
            Tensor x = ramp(number);
            flight.tape.watch(x);
            flight.input.set_edge(x.edge());
            for (int layer = 0; layer < layers; ++layer)
                x = core::recompute(
                    [](const Tensor& in) { return core::ops::gelu(in, kernels::Gelu::tanh); }, x);
            flight.output = x.edge();
        }
        if (number == 0) continue;
        Flight& flight = *flights[static_cast<size_t>(number - 1)];
        const core::Scope scope(settings(&flight.tape));
        std::vector<core::Root> roots;
        roots.emplace_back(flight.output, ramp(7));
        const Tensor dx = flight.tape.backward(std::move(roots), {&flight.input, 1}).front();
        const std::vector<float> values = dx.read<float>(around.stream);
        outcome.dx.insert(outcome.dx.end(), values.begin(), values.end());
    }
    outcome.peak = around.allocator.use().peak;
    return outcome;
}

class ActivationStoreDeviceTest : public ParallelDeviceTest {};

TEST_F(ActivationStoreDeviceTest, TensorsComeBackWithTheirBits) {
    const Outcome kept = outcome_of(false);
    for (int run = 0; run < 3; ++run) {
        const Outcome stored = outcome_of(true);
        EXPECT_TRUE(stored.dx == kept.dx) << run;
        EXPECT_LT(stored.peak, kept.peak);
    }
}

}  // namespace
}  // namespace plinth::test
