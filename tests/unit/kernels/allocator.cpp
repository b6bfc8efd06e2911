// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

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
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override {
        ++calls;
        if (is_broken) FAIL(io, "CUDA: an illegal memory access was encountered");
        if (held + bytes > most)
            throw OutOfMemory(fmt::format("no {} bytes left", bytes), __FILE__, __LINE__);
        held += bytes;
        return host_memory().allocate(bytes);
    }
    void free(void* block, size_t bytes) override {
        held -= bytes;
        host_memory().free(block, bytes);
    }
    size_t available() const override { return most - held; }
    size_t held = 0, most = 8192;
    int calls = 0;
    bool is_broken = false;
};

/// As the memory of graphs is.
class KeepingMemory final : public MemorySource {
  public:
    explicit KeepingMemory(MemorySource& source) : source_(source) {}
    Device device() const override { return source_.device(); }
    void* allocate(size_t bytes) override { return source_.allocate(bytes); }
    void free(void* block, size_t bytes) override { freed.emplace_back(block, bytes); }
    bool takes_back() const override { return false; }
    MemoryHolders& holders() override { return source_.holders(); }
    std::vector<std::pair<void*, size_t>> freed;

  private:
    MemorySource& source_;
};

/// What is said when `bytes` are not there; empty where they are.
std::string message_of_shortage(CachingAllocator& allocator, size_t bytes) {
    try {
        allocator.free(allocator.allocate(bytes), bytes);
    } catch (const OutOfMemory& error) {
        EXPECT_EQ(error.kind(), ErrorKind::io);
        return error.what();
    }
    return "";
}

TEST(CachingAllocator, GivesCachedBlocksBackBeforeMemoryRunsOut) {
    SmallMemory memory;
    CachingAllocator allocator(memory);
    allocator.free(allocator.allocate(4096), 4096);
    void* large = allocator.allocate(8192);  // fits only without the cached block
    EXPECT_EQ(memory.held, 8192u);
    EXPECT_EQ(allocator.use().reserved, 8192u);
    EXPECT_EQ(message_of_shortage(allocator, 1024),
              "no 1024 bytes left; this process holds 0.008 MiB of it: tensors 0.008 MiB");
    EXPECT_EQ(allocator.use().in_use, 8192u) << "what was not given is not counted";
    allocator.free(large, 8192);
}

TEST(CachingAllocator, GivesBackWhatOtherAllocatorsOfTheSourceKeep) {
    SmallMemory memory;
    CachingAllocator one(memory), other(memory);
    other.free(other.allocate(4096), 4096);
    one.free(one.allocate(8192), 8192);
    EXPECT_EQ(other.use().reserved, 0u);
    EXPECT_EQ(other.use().cached(), 0u);
    { CachingAllocator gone(memory); }
    other.free(other.allocate(8192), 8192);
    EXPECT_EQ(one.use().reserved, 0u);
    // Who takes memory without an allocator is served the same way.
    memory.free(memory.take(8192), 8192);
    EXPECT_EQ(other.use().reserved, 0u);
}

TEST(CachingAllocator, KeepsBlocksThatItsSourceWouldNotFree) {
    SmallMemory memory;
    KeepingMemory kept(memory);
    CachingAllocator arena(kept, CachingAllocator::Rounding::sizes, "tensors of graphs");
    void* block = arena.allocate(4096);
    arena.free(block, 4096);
    const std::string message = message_of_shortage(arena, 8192);
    EXPECT_EQ(message,
              "no 8192 bytes left; this process holds 0.004 MiB of it: tensors of graphs, free "
              "blocks that stay 0.004 MiB");
    EXPECT_TRUE(kept.freed.empty());
    EXPECT_EQ(arena.use().reserved, 4096u);
    EXPECT_EQ(arena.allocate(4096), block) << "the block is not lost";
    arena.free(block, 4096);
    CachingAllocator session(memory);
    session.free(session.allocate(4096), 4096);
    void* second = arena.allocate(2048);  // of what the other one kept
    EXPECT_EQ(session.use().reserved, 0u);
    arena.free(second, 2048);
    memory.free(block, 4096);
    memory.free(second, 2048);
}

TEST(CachingAllocator, OtherErrorsOfTheSourceAreNotTakenForAShortage) {
    SmallMemory memory;
    CachingAllocator allocator(memory);
    memory.holders().advise(&memory, [](const MemoryShortage&) -> std::string {
        ADD_FAILURE() << "advice about memory where it is not short";
        return "";
    });
    allocator.free(allocator.allocate(4096), 4096);
    memory.is_broken = true;
    const int calls = memory.calls;
    try {
        allocator.allocate(1024);
        ADD_FAILURE() << "memory of a broken device";
    } catch (const OutOfMemory& error) {
        ADD_FAILURE() << error.what();
    } catch (const Error& error) {
        EXPECT_STREQ(error.what(), "CUDA: an illegal memory access was encountered");
    }
    EXPECT_EQ(memory.calls, calls + 1) << "asked once";
    EXPECT_EQ(allocator.use().reserved, 4096u) << "nothing was given back";
}

TEST(CachingAllocator, AShortageSaysWhoHoldsWhatAndTheNewestAdvice) {
    SmallMemory memory;
    memory.most = 3 << 20;
    CachingAllocator allocator(memory, CachingAllocator::Rounding::sizes, "activations");
    CachingAllocator weights(allocator, "weights"), gradients(allocator, "gradients");
    NamedMemory scratch(memory.holders(), "scratch of kernels");
    void* a = weights.allocate(1 << 20);
    void* b = gradients.allocate(512 << 10);
    void* c = allocator.allocate(256 << 10);
    scratch.set(64 << 10);
    MemoryShortage seen;
    const int first = 0, second = 0;
    memory.holders().advise(&first, [](const MemoryShortage&) { return std::string("old"); });
    memory.holders().advise(&second, [&](const MemoryShortage& shortage) {
        seen = shortage;
        return std::string("a smaller batch fits");
    });
    const std::string held =
        "no 2097152 bytes left; this process holds 1.812 MiB of it: weights 1.000 MiB, gradients "
        "0.500 MiB, activations 0.250 MiB, scratch of kernels 0.062 MiB; ";
    EXPECT_EQ(message_of_shortage(weights, 2 << 20), held + "a smaller batch fits");
    EXPECT_EQ(seen.asked, size_t{2} << 20);
    EXPECT_EQ(seen.held, (size_t{1} << 20) + (512 << 10) + (256 << 10) + (64 << 10));
    EXPECT_EQ(seen.available, (size_t{3} << 20) - (size_t{1} << 20) - (512 << 10) - (256 << 10));
    memory.holders().forget(&second);
    EXPECT_EQ(message_of_shortage(weights, 2 << 20), held + "old");
    memory.holders().advise(&second,
                            [](const MemoryShortage&) -> std::string { throw std::bad_alloc(); });
    EXPECT_EQ(message_of_shortage(weights, 2 << 20) + "; ", held) << "without the advice";
    weights.free(a, 1 << 20);
    gradients.free(b, 512 << 10);
    allocator.free(c, 256 << 10);
}

TEST(CachingAllocator, PartsAreCountedByThemselvesAndInTheWhole) {
    CountingMemory memory;
    CachingAllocator allocator(memory);
    CachingAllocator weights(allocator, "weights");
    void* a = weights.allocate(1024);
    void* b = allocator.allocate(2048);
    EXPECT_EQ(weights.use().in_use, 1024u);
    EXPECT_EQ(allocator.use().in_use, 3072u);
    weights.free(a, 1024);
    EXPECT_EQ(allocator.allocate(1024), a) << "one cache serves all parts";
    EXPECT_EQ(weights.use().in_use, 0u);
    EXPECT_EQ(weights.use().peak, 1024u);
    EXPECT_EQ(allocator.use().peak, 3072u);
    allocator.free(a, 1024);
    allocator.free(b, 2048);
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
    EXPECT_EQ(allocator.use().cached(), 1024u);
    EXPECT_EQ(allocator.use().requests, 3);
    EXPECT_EQ(allocator.use().taken, 3);
    allocator.free(a, 512);
    allocator.free(b, 2048);
    EXPECT_EQ(allocator.use().in_use, 0u);
    allocator.free(allocator.allocate(2048), 2048);
    EXPECT_EQ(allocator.use().requests, 4);
    EXPECT_EQ(allocator.use().taken, 3);
    EXPECT_EQ(allocator.give_back(), 1024u + 2048u + 512u);
    EXPECT_EQ(allocator.use().reserved, 0u);
    EXPECT_EQ(allocator.use().peak_reserved, 1024u + 2048u + 512u);
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
