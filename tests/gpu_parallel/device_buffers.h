// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "kernels/runtime/device_module.h"
#include "kernels/runtime/stream.h"
#include "tests/support/buffers.h"

namespace plinth::test {

/// Skipped with the reason where no device is.
class ParallelDeviceTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!has_cuda_device()) GTEST_SKIP() << "no CUDA device here: " << no_cuda_device_reason();
    }
};

/// Device memory that is written and read by copies on a stream.
class StreamBuffers final : public BufferMemory {
  public:
    explicit StreamBuffers(Stream& stream)
        : stream_(stream), memory_(cuda_module().memory(stream.device().index)) {}
    ~StreamBuffers() override {
        stream_.synchronize();
        for (const auto& [block, bytes] : blocks_)
            memory_.free(block, bytes);
    }
    std::byte* allocate(size_t bytes) override {
        blocks_.emplace_back(memory_.allocate(std::max<size_t>(bytes, 1)), bytes);
        return static_cast<std::byte*>(blocks_.back().first);
    }
    void write(std::byte* to, std::span<const std::byte> from) override {
        stream_.copy(to, from.data(), from.size());
        stream_.synchronize();
    }
    void read(std::span<std::byte> to, const std::byte* from) override {
        stream_.copy(to.data(), from, to.size());
        stream_.synchronize();
    }
    void clear() override {}

  private:
    Stream& stream_;
    MemorySource& memory_;
    std::vector<std::pair<void*, size_t>> blocks_;
};

}  // namespace plinth::test
