// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/runtime/device.h"
#include "kernels/runtime/memory_holders.h"

namespace plinth {

/// Where an allocator gets its blocks: the heap, a device, a test double that counts.
class MemorySource {
  public:
    virtual ~MemorySource() = default;
    virtual Device device() const = 0;
    /// At least 64-byte aligned. Throws OutOfMemory, which names the size, when there is none left,
    /// and what else went wrong as any other error.
    virtual void* allocate(size_t bytes) = 0;
    virtual void free(void* block, size_t bytes) = 0;
    /// Blocking: all zeros when it returns. The default is for host memory.
    virtual void set_zero(void* data, size_t bytes);
    /// False where `free` has no effect before the source's end: blocks are then better kept.
    virtual bool takes_back() const { return true; }
    /// Bytes left; 0 where it does not know.
    virtual size_t available() const { return 0; }
    /// Who holds blocks of it.
    virtual MemoryHolders& holders() { return holders_; }

    /// `allocate`; when there is none left, again after its holders have given back what they do
    /// not use. OutOfMemory then says who holds what, and what would help.
    void* take(size_t bytes);

  private:
    MemoryHolders holders_;
};

/// Host memory; blocks of 2 MiB and more ask for huge pages.
MemorySource& host_memory();

struct MemoryUse {
    size_t in_use = 0;         ///< bytes handed out now
    size_t peak = 0;           ///< most bytes handed out at once
    size_t reserved = 0;       ///< bytes taken from the source
    size_t peak_reserved = 0;  ///< most of them at once
    int64_t requests = 0;      ///< calls of `allocate`
    int64_t taken = 0;         ///< of them those for which the source had to give a block
    /// Bytes that are kept for later requests.
    size_t cached() const { return reserved - in_use; }
};

/// Keeps freed blocks for the next request of the same rounded size, so that a training step
/// allocates nothing from the system after the first one and the same sequence of requests gets the
/// same addresses. Thread safe.
class CachingAllocator final : public MemoryHolder {
  public:
    /// `none` hands out exactly the bytes asked for, so that a test can guard the byte after them.
    enum class Rounding { sizes, none };
    /// `kind` says what its tensors are, see HeldMemory.
    explicit CachingAllocator(MemorySource& source, Rounding rounding = Rounding::sizes,
                              std::string kind = "tensors");
    /// A part of another allocator's memory under a name of its own: blocks come from that one's
    /// and go back to them. The other one must outlive it.
    CachingAllocator(CachingAllocator& whole, std::string kind);
    ~CachingAllocator() override;
    CachingAllocator(const CachingAllocator&) = delete;
    CachingAllocator& operator=(const CachingAllocator&) = delete;

    Device device() const { return source_.device(); }
    /// Uninitialised memory, 64-byte aligned. The size is rounded up; pass the same `bytes` to
    /// `free`.
    void* allocate(size_t bytes);
    void free(void* block, size_t bytes);
    /// Of memory that it gave.
    void set_zero(void* data, size_t bytes) { source_.set_zero(data, bytes); }
    /// Of a part: without `reserved`, `peak_reserved` and `taken`, which are the whole's.
    MemoryUse use() const;

    size_t give_back() override;
    /// What its parts hold and the rest under its own name, and the blocks that nobody uses.
    std::vector<HeldMemory> held() const override;

  private:
    size_t block_size(size_t bytes) const;
    void* cached(size_t size);
    void count(size_t size);

    MemorySource& source_;
    CachingAllocator* whole_ = nullptr;  ///< whose part it is; null: it is none
    Rounding rounding_;
    std::string kind_;
    mutable std::mutex mutex_;
    std::vector<const CachingAllocator*> parts_;
    std::map<size_t, std::vector<void*>> free_blocks_;
    MemoryUse use_;
};

}  // namespace plinth
