// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/runtime/device.h"

namespace plinth {

/// Where an allocator gets its blocks: the heap, a device, a test double that counts.
class MemorySource {
  public:
    virtual ~MemorySource() = default;
    virtual Device device() const = 0;
    /// At least 64-byte aligned. Throws an error of kind io that names the size when there is none
    /// left.
    virtual void* allocate(size_t bytes) = 0;
    virtual void free(void* block, size_t bytes) = 0;
    /// Blocking: all zeros when it returns. The default is for host memory.
    virtual void set_zero(void* data, size_t bytes);
};

/// Host memory; blocks of 2 MiB and more ask for huge pages.
MemorySource& host_memory();

struct MemoryUse {
    size_t in_use = 0;    ///< bytes handed out now
    size_t peak = 0;      ///< most bytes handed out at once
    size_t reserved = 0;  ///< bytes taken from the source
};

/// Keeps freed blocks for the next request of the same rounded size, so that a training step
/// allocates nothing from the system after the first one and the same sequence of requests gets the
/// same addresses. Thread safe.
class CachingAllocator {
  public:
    /// `none` hands out exactly the bytes asked for, so that a test can guard the byte after them.
    enum class Rounding { sizes, none };
    explicit CachingAllocator(MemorySource& source, Rounding rounding = Rounding::sizes)
        : source_(source), rounding_(rounding) {}
    ~CachingAllocator();
    CachingAllocator(const CachingAllocator&) = delete;
    CachingAllocator& operator=(const CachingAllocator&) = delete;

    Device device() const { return source_.device(); }
    /// Uninitialised memory, 64-byte aligned. The size is rounded up; pass the same `bytes` to
    /// `free`.
    void* allocate(size_t bytes);
    void free(void* block, size_t bytes);
    /// Of memory that it gave.
    void set_zero(void* data, size_t bytes) { source_.set_zero(data, bytes); }
    MemoryUse use() const;

  private:
    size_t block_size(size_t bytes) const;

    MemorySource& source_;
    Rounding rounding_;
    mutable std::mutex mutex_;
    std::map<size_t, std::vector<void*>> free_blocks_;
    MemoryUse use_;
};

}  // namespace plinth
