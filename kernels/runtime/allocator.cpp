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

/// Small sizes to a power of two, larger ones to a 32nd of theirs: at most 3.2 % waste, and few
/// distinct sizes where shapes are few, as in training. Of the largest, flat buffers that last as
/// long as a run, that would be hundreds of MiB: they end on a huge page.
size_t rounded(size_t bytes) {
    if (bytes <= cache_line) return cache_line;
    size_t power = cache_line;
    while (power < bytes)
        power *= 2;
    const size_t step = power <= 4096 ? power : std::min(power / 64, huge_page);
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
    std::vector<void*>& blocks = free_blocks_[size];
    void* block = nullptr;
    if (!blocks.empty()) {
        block = blocks.back();
        blocks.pop_back();
    } else {
        const auto give_cached_back = [this] {
            for (auto& [block_bytes, cached] : free_blocks_) {
                use_.reserved -= block_bytes * cached.size();
                for (void* one : cached)
                    source_.free(one, block_bytes);
                cached.clear();
            }
        };
        try {
            block = source_.allocate(size);
        } catch (const Error&) {
            give_cached_back();  // sizes of an earlier phase: an evaluation's, or a batch's
            try {
                block = source_.allocate(size);
            } catch (const Error& error) {
                FAIL(io,
                     "{}; tensors hold {:.3f} GiB and held at most {:.3f}: a smaller "
                     "train.micro_batch, train.recompute=full{} or parallel.zero need less "
                     "(--dry-run says how much)",
                     error.what(), static_cast<double>(use_.in_use) / (1 << 30),
                     static_cast<double>(use_.peak) / (1 << 30),
                     device().type == DeviceType::cpu
                         ? ""
                         : " (with train.offload_activations=true), optimizer.offload=states");
            }
        }
        use_.reserved += size;
    }
    use_.in_use += size;
    use_.peak = std::max(use_.peak, use_.in_use);
    return block;
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
