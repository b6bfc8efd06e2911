// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/runtime/error.h"

namespace plinth {

namespace {

constexpr size_t cache_line = 64;
constexpr size_t huge_page = size_t{2} << 20;

class HostMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }

    void* allocate(size_t bytes) override {
        const size_t alignment = bytes >= huge_page ? huge_page : cache_line;
        void* block =
            std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
        REQUIRE(io, block != nullptr, "out of memory: the system has no {} bytes left for a tensor",
                bytes);
        if (bytes >= huge_page) madvise(block, bytes, MADV_HUGEPAGE);
        return block;
    }

    void free(void* block, size_t) override { std::free(block); }
};

/// Small sizes to a power of two, larger ones to an eighth of theirs: few distinct sizes, at
/// most 12.5 % waste.
size_t rounded(size_t bytes) {
    if (bytes <= cache_line) return cache_line;
    size_t power = cache_line;
    while (power < bytes)
        power *= 2;
    const size_t step = power <= 4096 ? power : power / 16;
    return (bytes + step - 1) / step * step;
}

}  // namespace

void MemorySource::set_zero(void* data, size_t bytes) {
    std::memset(data, 0, bytes);
}

MemorySource& host_memory() {
    static HostMemory memory;
    return memory;
}

size_t CachingAllocator::block_size(size_t bytes) const {
    return rounding_ == Rounding::none ? bytes : rounded(bytes);
}

CachingAllocator::~CachingAllocator() {
    for (auto& [bytes, blocks] : free_blocks_)
        for (void* block : blocks)
            source_.free(block, bytes);
}

void* CachingAllocator::allocate(size_t bytes) {
    const size_t size = block_size(bytes);
    std::lock_guard lock(mutex_);
    use_.in_use += size;
    use_.peak = std::max(use_.peak, use_.in_use);
    std::vector<void*>& blocks = free_blocks_[size];
    if (!blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
    }
    use_.reserved += size;
    return source_.allocate(size);
}

void CachingAllocator::free(void* block, size_t bytes) {
    const size_t size = block_size(bytes);
    std::lock_guard lock(mutex_);
    use_.in_use -= size;
    free_blocks_[size].push_back(block);
}

MemoryUse CachingAllocator::use() const {
    std::lock_guard lock(mutex_);
    return use_;
}

}  // namespace plinth
