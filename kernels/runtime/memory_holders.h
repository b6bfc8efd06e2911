// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth {

/// A memory source has not as many bytes left as were asked for; of kind io. Every other failure of
/// a source (a device that an earlier kernel has broken, say) is not one.
class OutOfMemory : public Error {
  public:
    OutOfMemory(const std::string& message, const char* file, int line)
        : Error(ErrorKind::io, message, file, line) {}
};

/// Bytes of a source that are held for one purpose.
struct HeldMemory {
    std::string kind;  ///< "weights", "free blocks": as the user is told
    size_t bytes = 0;
};

/// One that takes memory of a source. From any thread.
class MemoryHolder {
  public:
    virtual ~MemoryHolder() = default;
    /// Returns to the source what nobody uses; how many bytes that were.
    virtual size_t give_back() { return 0; }
    virtual std::vector<HeldMemory> held() const = 0;
};

/// What is known when memory has run out, after all has been given back that could be.
struct MemoryShortage {
    size_t asked = 0;
    size_t held = 0;       ///< by this process
    size_t available = 0;  ///< left in the source, in whatever pieces; 0 where it does not say
};

/// Who holds memory of one source: what one of them keeps for later can serve another now.
class MemoryHolders {
  public:
    void add(MemoryHolder& holder);
    void remove(const MemoryHolder& holder);
    /// Of all holders, see MemoryHolder::give_back.
    size_t give_back();
    /// By kind, the largest first, without those that hold nothing.
    std::vector<HeldMemory> held() const;

    /// What would help, as a half sentence of the message; empty: nothing is known. The newest
    /// advice counts, until `forget`. It runs while nothing of this source can be had.
    using Advice = std::function<std::string(const MemoryShortage&)>;
    void advise(const void* owner, Advice advice);
    void forget(const void* owner);

    /// What follows the source's own words: who holds what, and the advice.
    std::string report(size_t asked, size_t available) const;

  private:
    mutable std::mutex mutex_;
    std::vector<MemoryHolder*> holders_;
    std::vector<std::pair<const void*, Advice>> advice_;
};

/// Memory that its owner takes by itself: a number under a name.
class NamedMemory final : public MemoryHolder {
  public:
    NamedMemory(MemoryHolders& holders, std::string kind)
        : holders_(holders), kind_(std::move(kind)) {
        holders_.add(*this);
    }
    ~NamedMemory() override { holders_.remove(*this); }
    NamedMemory(const NamedMemory&) = delete;
    NamedMemory& operator=(const NamedMemory&) = delete;

    void set(size_t bytes) { bytes_ = bytes; }
    std::vector<HeldMemory> held() const override { return {{kind_, bytes_}}; }

  private:
    MemoryHolders& holders_;
    std::string kind_;
    std::atomic<size_t> bytes_ = 0;
};

/// "1.500 GiB"; below one GiB in MiB.
std::string memory_size_text(size_t bytes);

}  // namespace plinth
