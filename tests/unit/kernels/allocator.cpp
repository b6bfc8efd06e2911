// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "kernels/runtime/error.h"

namespace plinth::test {
namespace {

/// Counts what the allocator asks for.
class CountingMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override {
        ++blocks;
        held += bytes;
        return host_memory().allocate(bytes);
    }
    void free(void* block, size_t bytes) override {
        --blocks;
        held -= bytes;
        host_memory().free(block, bytes);
    }
    int blocks = 0;
    size_t held = 0;
};

TEST(CachingAllocator, ReusesBlocksOfTheSameRoundedSize) {
    CountingMemory memory;
    void *b = nullptr, *c = nullptr;
    {
        CachingAllocator allocator(memory);
        void* a = allocator.allocate(1000);
        allocator.free(a, 1000);
        EXPECT_EQ(allocator.allocate(1024), a);
        b = allocator.allocate(1024);
        EXPECT_NE(b, a) << "a block that is in use is not handed out";
        EXPECT_EQ(memory.blocks, 2);
        allocator.free(a, 1024);
        c = allocator.allocate(4096);
        EXPECT_NE(c, a);
        EXPECT_EQ(memory.blocks, 3);
        allocator.free(allocator.allocate(0), 0);
    }
    EXPECT_EQ(memory.blocks, 2) << "cached blocks go back; the two in use are their owners'";
    memory.free(b, 1024);
    memory.free(c, 4096);
    EXPECT_EQ(memory.held, 0u);
}

TEST(CachingAllocator, RoundsUpByA32ndAtMostAndLargeBlocksToHugePages) {
    CountingMemory memory;
    CachingAllocator allocator(memory);
    for (size_t bytes = 5000; bytes < size_t{200} << 20; bytes += bytes / 3 + 1) {
        void* block = allocator.allocate(bytes);
        const size_t taken = allocator.use().in_use;
        EXPECT_GE(taken, bytes);
        EXPECT_LE(taken, bytes + std::min(bytes / 32, size_t{2} << 20));
        allocator.free(block, bytes);
    }
    EXPECT_EQ(allocator.use().in_use, 0u);
}

/// Has only so much.
class SmallMemory final : public MemorySource {
  public:
    explicit SmallMemory(DeviceType type = DeviceType::cpu) : type_(type) {}
    Device device() const override { return {type_, 0}; }
    void* allocate(size_t bytes) override {
        REQUIRE(io, held + bytes <= most, "no {} bytes left", bytes);
        held += bytes;
        return host_memory().allocate(bytes);
    }
    void free(void* block, size_t bytes) override {
        held -= bytes;
        host_memory().free(block, bytes);
    }
    size_t held = 0, most = 8192;

  private:
    DeviceType type_;
};

TEST(CachingAllocator, WhatNeedsLessMemoryIsNamed) {
    for (const auto type : {DeviceType::cpu, DeviceType::cuda}) {
        SmallMemory memory(type);
        CachingAllocator allocator(memory);
        std::string message;
        try {
            allocator.allocate(10000);
        } catch (const Error& error) {
            message = error.what();
        }
        EXPECT_NE(message.find("a smaller train.micro_batch"), std::string::npos) << message;
        // States that go to the host need no less memory on the CPU.
        EXPECT_EQ(message.find("optimizer.offload=states") != std::string::npos,
                  type == DeviceType::cuda)
            << message;
    }
}

TEST(CachingAllocator, GivesCachedBlocksBackBeforeMemoryRunsOut) {
    SmallMemory memory;
    CachingAllocator allocator(memory);
    allocator.free(allocator.allocate(4096), 4096);
    void* large = allocator.allocate(8192);  // fits only without the cached block
    EXPECT_EQ(memory.held, 8192u);
    EXPECT_EQ(allocator.use().reserved, 8192u);
    try {
        allocator.allocate(1024);
        ADD_FAILURE() << "memory that is not there";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::io);
        EXPECT_NE(std::string(error.what()).find("no 1024 bytes left; tensors hold"),
                  std::string::npos)
            << error.what();
    }
    EXPECT_EQ(allocator.use().in_use, 8192u) << "what was not given is not counted";
    allocator.free(large, 8192);
}

TEST(CachingAllocator, TheSameRequestsGetTheSameAddresses) {
    CountingMemory memory;
    CachingAllocator allocator(memory);
    const auto step = [&] {
        std::vector<void*> blocks;
        for (const size_t bytes : {100, 5000, 100, 70000, 5000})
            blocks.push_back(allocator.allocate(bytes));
        size_t i = blocks.size();
        for (const size_t bytes : {5000, 70000, 100, 5000, 100})
            allocator.free(blocks[--i], bytes);
        return blocks;
    };
    const auto first = step();
    const int taken = memory.blocks;
    EXPECT_EQ(step(), first);
    EXPECT_EQ(memory.blocks, taken) << "the second step takes nothing from the system";
}

TEST(CachingAllocator, CountsUseAndItsPeak) {
    CachingAllocator allocator(host_memory());
    void* a = allocator.allocate(1024);
    void* b = allocator.allocate(2048);
    allocator.free(a, 1024);
    a = allocator.allocate(512);
    EXPECT_EQ(allocator.use().in_use, 2048u + 512u);
    EXPECT_EQ(allocator.use().peak, 1024u + 2048u);
    EXPECT_EQ(allocator.use().reserved, 1024u + 2048u + 512u);
    allocator.free(a, 512);
    allocator.free(b, 2048);
    EXPECT_EQ(allocator.use().in_use, 0u);
}

TEST(CachingAllocator, RoundingWastesLittleAndKeepsAlignment) {
    for (const size_t bytes : {1ul, 63ul, 65ul, 4097ul, 100001ul, 3000001ul, 50000001ul}) {
        CountingMemory memory;
        CachingAllocator allocator(memory);
        void* block = allocator.allocate(bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
        const size_t taken = memory.held;
        EXPECT_GE(taken, bytes);
        const double most = bytes > 4096 ? 1.126 : 2.0;
        EXPECT_LE(static_cast<double>(taken), std::max(64.0, most * static_cast<double>(bytes)));
        allocator.free(block, bytes);
    }
}

}  // namespace
}  // namespace plinth::test
