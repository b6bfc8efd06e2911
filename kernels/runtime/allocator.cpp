// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

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
        if (!block)
            throw OutOfMemory(
                fmt::format("out of memory: the system has no {} bytes left for a tensor", bytes),
                __FILE__, __LINE__);
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

void* MemorySource::take(size_t bytes) {
    try {
        return allocate(bytes);
    } catch (const OutOfMemory&) {
        holders().give_back();  // sizes of an earlier phase: an evaluation's, or a batch's
    }
    try {
        return allocate(bytes);
    } catch (const OutOfMemory& error) {
        throw OutOfMemory(error.what() + holders().report(bytes, available()), __FILE__, __LINE__);
    }
}

CachingAllocator::CachingAllocator(MemorySource& source, Rounding rounding, std::string kind)
    : source_(source), rounding_(rounding), kind_(std::move(kind)) {
    source_.holders().add(*this);
}

CachingAllocator::CachingAllocator(CachingAllocator& whole, std::string kind)
    : source_(whole.source_), whole_(&whole), rounding_(whole.rounding_), kind_(std::move(kind)) {
    const std::lock_guard lock(whole_->mutex_);
    whole_->parts_.push_back(this);
}

CachingAllocator::~CachingAllocator() {
    if (whole_) {
        const std::lock_guard lock(whole_->mutex_);
        std::erase(whole_->parts_, this);
        return;
    }
    source_.holders().remove(*this);
    for (auto& [bytes, blocks] : free_blocks_)
        for (void* block : blocks)
            source_.free(block, bytes);
}

size_t CachingAllocator::block_size(size_t bytes) const {
    return rounding_ == Rounding::none ? bytes : rounded(bytes);
}

/// Null if there is none of that size.
void* CachingAllocator::cached(size_t size) {
    const auto found = free_blocks_.find(size);
    if (found == free_blocks_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    return block;
}

void CachingAllocator::count(size_t size) {
    ++use_.requests;
    use_.in_use += size;
    use_.peak = std::max(use_.peak, use_.in_use);
}

void* CachingAllocator::allocate(size_t bytes) {
    const size_t size = block_size(bytes);
    if (whole_) {
        void* block = whole_->allocate(bytes);
        const std::lock_guard lock(mutex_);
        count(size);
        return block;
    }
    {
        const std::lock_guard lock(mutex_);
        if (void* block = cached(size)) {
            count(size);
            return block;
        }
    }
    // Without the lock: where memory runs out, the source asks all allocators to give back, this
    // one too.
    void* block = source_.take(size);
    const std::lock_guard lock(mutex_);
    ++use_.taken;
    use_.reserved += size;
    use_.peak_reserved = std::max(use_.peak_reserved, use_.reserved);
    count(size);
    return block;
}

void CachingAllocator::free(void* block, size_t bytes) {
    const size_t size = block_size(bytes);
    {
        const std::lock_guard lock(mutex_);
        use_.in_use -= size;
        if (!whole_) free_blocks_[size].push_back(block);
    }
    if (whole_) whole_->free(block, bytes);
}

size_t CachingAllocator::give_back() {
    if (whole_ || !source_.takes_back()) return 0;
    const std::lock_guard lock(mutex_);
    size_t all = 0;
    for (auto& [bytes, blocks] : free_blocks_) {
        for (void* block : blocks)
            source_.free(block, bytes);
        all += bytes * blocks.size();
        blocks.clear();
    }
    use_.reserved -= all;
    return all;
}

std::vector<HeldMemory> CachingAllocator::held() const {
    const std::lock_guard lock(mutex_);
    std::vector<HeldMemory> all{{kind_, use_.in_use}};
    for (const CachingAllocator* part : parts_) {
        const size_t bytes = std::min(part->use().in_use, all.front().bytes);
        all.front().bytes -= bytes;
        all.push_back({part->kind_, bytes});
    }
    if (!whole_)
        all.push_back({source_.takes_back() ? "free blocks" : kind_ + ", free blocks that stay",
                       use_.cached()});
    return all;
}

MemoryUse CachingAllocator::use() const {
    const std::lock_guard lock(mutex_);
    return use_;
}

}  // namespace plinth
