// SPDX-License-Identifier: Apache-2.0
// T tokens, N output and K input features.
// Weight gradients of several micro-batches of a lane on a device: finished apart where bits are
// promised, else added within the products.
#include <algorithm>
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/matmul.h"
#include "kernels/cast.h"
#include "kernels/fp8.h"
#include "kernels/matmul.h"
#include "parallel/comm/self.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "tests/gpu_parallel/device_buffers.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;
using kernels::Fp8;

constexpr int64_t T = 48, N = 64, K = 96, slots = 3;

enum class Product { bf16, fp8, table };
enum class Sink { lanes, overwriting };

struct Outcome {
    std::vector<float> gradient;  ///< [N, K]
    std::string algorithms;
    size_t scratch = 0;  ///< bytes that the sums took beside the lane

    /// Products that were made: those that add, and those that do not.
    int products(bool that_add) const {
        int found = 0;
        for (size_t at = 0; at < algorithms.size();) {
            const size_t end = std::min(algorithms.find('\n', at), algorithms.size());
            const std::string line = algorithms.substr(at, end - at);
            if (line.find("->f32") != std::string::npos &&
                (line.find(" accumulates") != std::string::npos) == that_add)
                ++found;
            at = end + 1;
        }
        return found;
    }
};

/// A mutant between a parameter and its sink: later slots overwrite.
struct Overwriting final : core::GradientSink {
    explicit Overwriting(core::GradientSink& to) : sound(to) {}
    void add(Parameter& parameter, int use, FunctionRef<void(View dweight)> product) override {
        sound.add(parameter, use, product);
    }
    void accumulate(Parameter& parameter, int use,
                    FunctionRef<void(View sum, bool accumulates)> product) override {
        sound.accumulate(parameter, use, [&](View sum, bool) { product(sum, false); });
    }
    core::GradientSink& sound;
};

class AccumulatedGradientsTest : public ParallelDeviceTest {
  protected:
    /// The gradient of slots [first, end) in one lane.
    static Outcome run(const StreamOptions& options, Product kind, int64_t first, int64_t end,
                       Sink sink = Sink::lanes) {
        CachingAllocator allocator(cuda_module().memory(0));
        Stream stream({DeviceType::cuda, 0}, 1, options);
        parallel::SelfCommunicator self;
        Parameter weight({.name = "weight", .shape = {N, K}});
        weight.add_use();
        Parameter* const all[] = {&weight};
        CachingAllocator sums(cuda_module().memory(0));
        parallel::LaneReducer reducer(all, self, sums, stream);
        Overwriting overwriting(reducer);
        if (sink == Sink::overwriting) weight.set_sink(&overwriting);
        const size_t lane = sums.use().peak;
        reducer.begin_step({.slots = end - first});
        for (int64_t slot = first; slot < end; ++slot) {
            reducer.begin_slot(slot - first);
            give(weight, kind, slot, allocator, stream);
            reducer.end_slot();
        }
        reducer.finish();
        Outcome outcome;
        outcome.scratch = sums.use().peak - lane;
        const View gradient = reducer.gradients().front().gradient;
        outcome.gradient.resize(static_cast<size_t>(gradient.elements()));
        stream.copy(outcome.gradient.data(), gradient.data, gradient.bytes());
        stream.synchronize();
        kernels::save_matmul_algorithms(outcome.algorithms, stream);
        return outcome;
    }

    static bool lacks(Product kind) {
        return kind == Product::fp8 && cuda_module().info(0).capability < 89;
    }

  private:
    static Tensor on_device(const std::vector<float>& values, const Shape& shape, DType dtype,
                            CachingAllocator& allocator, Stream& stream) {
        const Tensor wide = Tensor::of(values, shape, allocator, stream);
        Tensor narrow = Tensor::empty(shape, dtype, allocator);
        kernels::cast(narrow.out(), wide.in(), stream);
        stream.synchronize();
        return narrow;
    }

    static void give(Parameter& weight, Product kind, int64_t slot, CachingAllocator& allocator,
                     Stream& stream) {
        core::StepState step;
        const core::Scope scope({.stream = &stream, .allocator = &allocator, .step = &step});
        const auto tensor = [&](const char* name, const Shape& shape) {
            return on_device(random_values(shape.elements(), fmt::format("{} {}", name, slot)),
                             shape, DType::bf16, allocator, stream);
        };
        if (kind == Product::bf16)
            return core::ops::add_linear_weight_gradients(tensor("dy", {T, N}), tensor("x", {T, K}),
                                                          {weight}, nullptr);
        if (kind == Product::table) {
            std::vector<int32_t> ids;
            for (int64_t i = 0; i < T; ++i)
                ids.push_back(static_cast<int32_t>((i * i + slot) % N));
            core::Tape tape;
            const core::Scope recording({.stream = &stream,
                                         .allocator = &allocator,
                                         .tape = &tape,
                                         .step = &step,
                                         .compute = DType::bf16});
            const std::vector<float> table = random_values(N * K, "table");
            weight.materialize(Tensor::of(table, {N, K}, allocator, stream));
            const Tensor at = Tensor::of(ids, {T}, allocator, stream);
            const Tensor y = core::ops::embedding(at, {weight});
            tape.backward({{y, tensor("dy", {T, K})}}, {});
            return stream.synchronize();  // `table` and `ids` go
        }
        const auto quantized = [&](const char* name, int64_t rows, Fp8 format, Tensor& scale) {
            const Tensor x = tensor(name, {T, rows});
            Tensor bits = Tensor::empty({rows, T}, DType::u8, allocator);
            scale = Tensor::empty({1}, DType::f32, allocator);
            kernels::fp8_scale(scale.out(), x.in(), {}, format, stream);
            kernels::fp8_quantize({}, bits.out(), {}, x.in(), scale.in(), format, stream);
            return bits;
        };
        Tensor scale_dy, scale_x;
        const Tensor dy = quantized("dy", N, Fp8::e5m2, scale_dy),
                     x = quantized("x", K, Fp8::e4m3, scale_x);
        weight.accumulate_gradient(0, [&](View sum, bool accumulates) {
            kernels::fp8_matmul(sum, dy.in(), x.in(), {}, scale_dy.in(), scale_x.in(),
                                {.a = Fp8::e5m2, .b = Fp8::e4m3, .accumulate = accumulates},
                                stream);
        });
        stream.synchronize();
    }
};

/// The rule: each slot's gradient is finished, then added once.
std::vector<float> folded(const std::vector<std::vector<float>>& of_slots) {
    std::vector<float> sum = of_slots[0];
    for (size_t slot = 1; slot < of_slots.size(); ++slot)
        for (size_t i = 0; i < sum.size(); ++i)
            sum[i] += of_slots[slot][i];
    return sum;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0.0;
    for (size_t i = 0; i < a.size(); ++i)
        largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
    return largest;
}

TEST_F(AccumulatedGradientsTest, AreFinishedApartWhereBitsArePromised) {
    const StreamOptions options{.reproducible = true};
    for (const Product kind : {Product::bf16, Product::fp8, Product::table}) {
        if (lacks(kind)) continue;
        std::vector<std::vector<float>> of_slots;
        for (int64_t slot = 0; slot < slots; ++slot)
            of_slots.push_back(run(options, kind, slot, slot + 1).gradient);
        const Outcome lane = run(options, kind, 0, slots);
        EXPECT_EQ(lane.gradient, folded(of_slots)) << static_cast<int>(kind);
        EXPECT_EQ(lane.products(true), 0) << lane.algorithms;
        EXPECT_EQ(lane.scratch, 0u) << "the kernel's scratch, not the sums'";
        const Outcome mutant = run(options, kind, 0, slots, Sink::overwriting);
        EXPECT_EQ(mutant.gradient, of_slots.back()) << "overwritten by the last";
        EXPECT_NE(mutant.gradient, lane.gradient);
    }
}

TEST_F(AccumulatedGradientsTest, AreAddedWithinTheProductElsewhere) {
    for (const Product kind : {Product::bf16, Product::fp8, Product::table}) {
        if (lacks(kind)) continue;
        std::vector<std::vector<float>> of_slots;
        for (int64_t slot = 0; slot < slots; ++slot)
            of_slots.push_back(run({}, kind, slot, slot + 1).gradient);
        const Outcome lane = run({}, kind, 0, slots);
        EXPECT_LT(largest_difference(lane.gradient, folded(of_slots)), 1e-4)
            << static_cast<int>(kind);
        // One product for the first slot, one for all later ones, and none of them leaves scratch.
        const int products = kind == Product::table ? 0 : 1;
        EXPECT_EQ(lane.products(false), products) << lane.algorithms;
        EXPECT_EQ(lane.products(true), products) << lane.algorithms;
        EXPECT_EQ(lane.scratch, 0u);
        EXPECT_GT(
            largest_difference(run({}, kind, 0, slots, Sink::overwriting).gradient, lane.gradient),
            0.1);
    }
}

}  // namespace
}  // namespace plinth::test
