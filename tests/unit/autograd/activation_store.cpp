// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/activation_store.h"

#include <gtest/gtest.h>

#include "core/autograd/recompute.h"
#include "core/ops/gelu.h"
#include "tests/support/late_copies.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::ActivationStore;
using core::Tensor;

struct Setting {
    bool stores = true;
    LateCopies::Faults to_host = {}, to_device = {};
};

struct Result {
    std::vector<float> dx;
    size_t peak = 0, on_host = 0;  ///< bytes
    int left = 0, came = 0;        ///< copies
};

constexpr int64_t width = 4096;
constexpr int layers = 6;

/// Passes of two micro-batches through layers that run again.
Result run(const Setting& setting, int count = layers) {
    Surroundings around(1);
    auto down = std::make_unique<LateCopies>(setting.to_host),
         up = std::make_unique<LateCopies>(setting.to_device);
    LateCopies &left = *down, &came = *up;
    ActivationStore store(host_memory(), {.to_host = std::move(down), .to_device = std::move(up)});
    Result result;
    for (int batch = 0; batch < 2; ++batch) {
        core::Tape tape;
        core::Scope::Settings settings = around.settings(&tape);
        if (setting.stores) settings.activations = &store;
        const core::Scope scope(settings);
        std::vector<float> values;
        for (int64_t i = 0; i < width; ++i)
            values.push_back(0.001f * static_cast<float>(i % 977 - 400 + batch));
        Tensor x = Tensor::of(values, {1, width}, around.allocator);
        tape.watch(x);
        Tensor y = x.detach();
        y.set_edge(x.edge());
        for (int layer = 0; layer < count; ++layer)
            y = core::recompute(
                [](const Tensor& in) { return core::ops::gelu(in, kernels::Gelu::tanh); }, y);
        const Tensor dx =
            tape.backward({{y, Tensor::of(values, {1, width}, around.allocator)}}, {&x, 1}).front();
        for (const float value : dx.values<float>())
            result.dx.push_back(value);
    }
    result.peak = around.allocator.use().peak;
    result.on_host = store.peak_bytes();
    result.left = left.copies();
    result.came = came.copies();
    return result;
}

TEST(ActivationStore, TensorsComeBackWithTheirBitsAndTakeNoMemoryMeanwhile) {
    const Result kept = run({.stores = false}), stored = run({});
    EXPECT_EQ(stored.dx, kept.dx);
    EXPECT_EQ(kept.left, 0);
    EXPECT_EQ(stored.left, 2 * layers);
    EXPECT_EQ(stored.came, 2 * (layers - 1)) << "the newest stays";
    EXPECT_EQ(stored.on_host, layers * width * sizeof(float));
    EXPECT_EQ(run({.stores = false}, 2 * layers).peak - kept.peak, layers * width * sizeof(float));
    EXPECT_EQ(run({}, 2 * layers).peak, stored.peak) << "more of them are only on the host";
}

TEST(ActivationStoreMutants, ForgottenCopiesAndWaitsAreSeen) {
    const std::vector<float> expected = run({.stores = false}).dx;
    const Result sound = run({});
    for (int n = 0; n < sound.left; ++n) {
        if (n % layers == layers - 1) continue;  // nobody fetches the newest
        EXPECT_NE(run({.to_host = {.forgotten = n}}).dx, expected) << n;
    }
    for (int n = 0; n < sound.came; ++n)
        EXPECT_NE(run({.to_device = {.forgotten = n}}).dx, expected) << n;
    EXPECT_NE(run({.to_host = {.does_not_hold = true}}).dx, expected);
    EXPECT_NE(run({.to_device = {.does_not_hold = true}}).dx, expected);
}

}  // namespace
}  // namespace plinth::test
