// SPDX-License-Identifier: Apache-2.0
#include <numeric>

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

}  // namespace
}  // namespace plinth::test
