// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "kernels/runtime/copy_engine.h"
#include "kernels/runtime/device_module.h"
#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using CopyTest = DeviceTest;

TEST_F(CopyTest, BytesComeBackFromTheDevice) {
    DeviceModule& module = cuda_module();
    CachingAllocator device(module.memory(0)), pinned(module.pinned_memory());
    Stream stream({DeviceType::cuda, 0}, 1);
    for (const size_t bytes : {size_t{1}, size_t{4097}, size_t{1} << 24}) {
        auto* host = static_cast<uint8_t*>(pinned.allocate(bytes));
        std::iota(host, host + bytes, uint8_t{1});
        void* block = device.allocate(bytes);
        stream.copy(block, host, bytes);
        stream.synchronize();
        std::vector<uint8_t> back(bytes);
        copy_bytes(back.data(), {}, block, {DeviceType::cuda, 0}, bytes);
        EXPECT_TRUE(std::equal(back.begin(), back.end(), host));
        device.set_zero(block, bytes);
        copy_bytes(back.data(), {}, block, {DeviceType::cuda, 0}, bytes);
        EXPECT_EQ(back, std::vector<uint8_t>(bytes));
        EXPECT_TRUE(module.is_device_pointer(block));
        EXPECT_FALSE(module.is_device_pointer(back.data()));
        device.free(block, bytes);
        pinned.free(host, bytes);
    }
}

TEST_F(CopyTest, EnginesCopyBesideTheStreamAndInItsOrderWhereAsked) {
    DeviceModule& module = cuda_module();
    CachingAllocator device(module.memory(0)), pinned(module.pinned_memory());
    Stream stream({DeviceType::cuda, 0}, 1);
    const auto down = make_copy_engine(stream), up = make_copy_engine(stream);
    constexpr size_t bytes = size_t{64} << 20;
    auto* host = static_cast<uint8_t*>(pinned.allocate(bytes));
    auto* first = static_cast<uint8_t*>(device.allocate(bytes));
    auto* second = static_cast<uint8_t*>(device.allocate(bytes));
    for (int i = 1; i <= 10; ++i) {
        std::fill(host, host + bytes, static_cast<uint8_t>(i));
        up->wait_for_stream();  // the stream still copies from there
        up->copy(first, host, bytes);
        up->hold_stream();
        stream.copy(second, first, bytes);
        up->synchronize();
        std::fill(host, host + bytes, uint8_t{0});
        down->wait_for_stream();
        down->copy(host, second, bytes);
        stream.set_zero(first, bytes);  // beside that
        down->synchronize();
        ASSERT_EQ(std::count(host, host + bytes, static_cast<uint8_t>(i)),
                  static_cast<std::ptrdiff_t>(bytes))
            << i;
    }
    stream.synchronize();
    device.free(first, bytes);
    device.free(second, bytes);
    pinned.free(host, bytes);
}

}  // namespace
}  // namespace plinth::test
