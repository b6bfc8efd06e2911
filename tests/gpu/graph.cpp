// SPDX-License-Identifier: Apache-2.0
// Captured work of a device's stream.
#include "kernels/runtime/graph.h"

#include <numeric>

#include "kernels/adamw.h"
#include "kernels/add.h"
#include "kernels/attention.h"
#include "kernels/cast.h"
#include "kernels/dropout.h"
#include "kernels/matmul.h"
#include "kernels/runtime/device_module.h"
#include "kernels/step_decision.h"
#include "tests/gpu/device_test.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

class GraphDeviceTest : public DeviceTest {
  protected:
    void SetUp() override {
        DeviceTest::SetUp();
        if (IsSkipped()) return;
        stream_ = std::make_unique<Stream>(Device{DeviceType::cuda, 0}, 1,
                                           StreamOptions{.reproducible = true});
        memory_ = std::make_unique<CachingAllocator>(cuda_module().memory(0));
    }
    View floats(int64_t rows, int64_t columns) {
        const auto bytes = static_cast<size_t>(rows * columns) * sizeof(float);
        return {memory_->allocate(bytes), DType::f32, {rows, columns}, Device{DeviceType::cuda, 0}};
    }
    void write(View to, float first) {
        std::vector<float> values(static_cast<size_t>(to.elements()));
        std::iota(values.begin(), values.end(), first);
        for (float& value : values)
            value = static_cast<float>(static_cast<int>(value) % 17) - 8.0f;
        stream_->copy(to.data, values.data(), to.bytes());
        stream_->synchronize();
    }
    std::vector<float> read(View from) {
        std::vector<float> values(static_cast<size_t>(from.elements()));
        stream_->copy(values.data(), from.data, from.bytes());
        stream_->synchronize();
        return values;
    }

    std::unique_ptr<Stream> stream_;
    std::unique_ptr<CachingAllocator> memory_;  ///< blocks live as long as the process
};

TEST_F(GraphDeviceTest, LaunchesGiveWhatTheCallsGive) {
    const View a = floats(64, 128), b = floats(128, 96), c = floats(64, 96), d = floats(64, 96);
    const auto work = [&] {
        kernels::matmul(c, a, b, {}, {}, *stream_);
        kernels::add(d, c, c, *stream_);
        stream_->copy(c.data, d.data, c.bytes());
        stream_->set_zero(d.data, sizeof(float));
    };
    write(a, 1.0f);
    write(b, 2.0f);
    work();  // the library chooses
    stream_->set_zero(c.data, c.bytes());
    stream_->set_zero(d.data, d.bytes());
    const auto graph = stream_->capture(work);
    EXPECT_GE(graph->size(), 4u);
    EXPECT_EQ(read(c), std::vector<float>(64 * 96)) << "nothing is done by the capture";
    for (int i = 0; i < 3; ++i) {
        write(a, static_cast<float>(5 * i));
        work();
        const auto first = read(c), second = read(d);
        stream_->set_zero(c.data, c.bytes());
        stream_->set_zero(d.data, d.bytes());
        graph->launch();
        EXPECT_EQ(read(c), first);
        EXPECT_EQ(read(d), second);
    }
}

/// Every kernel that draws random numbers: attention by both kinds of own kernels, forwards and
/// backwards, dropout, moments in bf16.
class DrawingDeviceTest : public GraphDeviceTest {
  protected:
    static constexpr int64_t B = 2, T = 70, H = 2;

    void SetUp() override {
        GraphDeviceTest::SetUp();
        if (IsSkipped()) return;
        values_ = taken({B * T * 3 * H * 64}, DType::f32);
        write(values_, 1.0f);
        samples_ = taken({B}, DType::i64);
        const int64_t numbers[B] = {7, 5'000'000'011};
        stream_->copy(samples_.data, numbers, sizeof(numbers));
        number_ = taken({1}, DType::i64);
        for (const auto& [dtype, width] : {std::pair{DType::f32, 16}, std::pair{DType::bf16, 64}}) {
            const Shape rows{B, T, H * width};
            passes_.push_back({.qkv = of_values({B, T, 3 * H * width}, dtype),
                               .dy = of_values(rows, dtype),
                               .y = output(rows, dtype),
                               .log_sum = output({B, H, T}, DType::f32),
                               .dqkv = output({B, T, 3 * H * width}, dtype),
                               .dropped = output(rows, dtype)});
        }
        gradient_ = of_values({1031}, DType::f32);
        for (const DType dtype : {DType::f32, DType::bf16, DType::bf16})
            state_.push_back(output({1031}, dtype));
    }
    View taken(const Shape& shape, DType dtype) {
        const auto bytes = static_cast<size_t>(shape.elements()) * size_of(dtype);
        return {memory_->allocate(bytes), dtype, shape, Device{DeviceType::cuda, 0}};
    }
    View of_values(const Shape& shape, DType dtype) {
        const View made = taken(shape, dtype);
        kernels::cast(made, ConstView(values_.data, DType::f32, shape, values_.device), *stream_);
        return made;
    }
    View output(const Shape& shape, DType dtype) {
        return outputs_.emplace_back(taken(shape, dtype));
    }

    void draw(StepNumber step) {
        const StepKey key(3, "here", step);
        for (const Pass& pass : passes_) {
            const kernels::Attention options{
                .heads = H, .kv_heads = H, .dropout = 0.3f, .random = key};
            const kernels::AttentionMask mask{.slopes = {}, .documents = {}, .samples = samples_};
            kernels::attention_forward(pass.y, pass.log_sum, pass.qkv, mask, options, *stream_);
            kernels::attention_backward(pass.dqkv, pass.dy, pass.y, pass.log_sum, pass.qkv, mask,
                                        options, *stream_);
            kernels::dropout(pass.dropped, {}, pass.dy, samples_, {0.3f, key}, *stream_);
        }
        kernels::AdamW options{.learning_rate = 1e-2, .weight_decay = 0.1};
        options.rounding = key;
        kernels::adamw(state_[0], state_[1], state_[2], gradient_, options, *stream_);
    }
    /// What `work` makes of fresh states: the bytes of each output.
    std::vector<std::vector<std::byte>> made_by(const std::function<void()>& work) {
        for (const View& view : outputs_)
            stream_->set_zero(view.data, view.bytes());
        work();
        std::vector<std::vector<std::byte>> made;
        for (const View& view : outputs_) {
            made.emplace_back(view.bytes());
            stream_->copy(made.back().data(), view.data, view.bytes());
        }
        stream_->synchronize();
        return made;
    }

    struct Pass {
        View qkv, dy, y, log_sum, dqkv, dropped;
    };
    View values_, samples_, number_, gradient_;
    std::vector<Pass> passes_;
    std::vector<View> state_, outputs_;
};

TEST_F(DrawingDeviceTest, CapturedWorkGoesByTheStepThatMemoryHolds) {
    draw(2);  // takes scratch
    const auto in_memory = StepNumber::read_from(number_.as<int64_t>());
    const auto graph = stream_->capture([&] { draw(in_memory); });
    const auto mutant = stream_->capture([&] { draw(2); });
    for (const int64_t step : {2, 3, 17}) {
        const auto expected = made_by([&] { draw(step); });
        kernels::set_step_number(number_, step, *stream_);
        EXPECT_EQ(made_by([&] { graph->launch(); }), expected) << step;
        const auto kept = made_by([&] { mutant->launch(); });
        for (size_t i = 0; i < kept.size(); ++i) {
            const View& view = outputs_[i];
            // Sums of exponentials, and weights, do not depend on what is drawn.
            const bool draws = view.dtype == DType::bf16 || view.shape.rank() == 3;
            if (!draws || view.shape == passes_[0].log_sum.shape) continue;
            EXPECT_EQ(kept[i] == expected[i], step == 2) << "output " << i;
        }
    }
}

TEST_F(GraphDeviceTest, WaitsAndHostMemoryAreRefusedAndTheStreamWorksOn) {
    const View a = floats(8, 8);
    std::vector<float> host(64);
    expect_error(
        ErrorKind::internal, [&] { stream_->capture([&] { stream_->synchronize(); }); },
        "a wait for work that is captured");
    expect_error(
        ErrorKind::internal,
        [&] { stream_->capture([&] { stream_->copy(a.data, host.data(), a.bytes()); }); },
        "a copy from or to the host in captured work");
    write(a, 3.0f);
    kernels::add(a, a, a, *stream_);
    EXPECT_EQ(read(a)[0], 2.0f * (3.0f - 8.0f));
}

}  // namespace
}  // namespace plinth::test
