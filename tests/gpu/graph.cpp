// SPDX-License-Identifier: Apache-2.0
// Captured work of a device's stream.
#include "kernels/runtime/graph.h"

#include <numeric>

#include "kernels/add.h"
#include "kernels/matmul.h"
#include "kernels/runtime/device_module.h"
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
