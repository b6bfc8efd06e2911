// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/device_staging.h"
#include "tests/support/buffers.h"

namespace plinth::test {

/// Memory that faults when the host touches it.
class FakeMemory {
  public:
    FakeMemory() {
        const int file = ::memfd_create("device", 0);
        CHECK(file >= 0 && ::ftruncate(file, capacity) == 0, "no memory for a device");
        const auto map = [&](int protection) {
            void* at = ::mmap(nullptr, capacity, protection, MAP_SHARED, file, 0);
            CHECK(at != MAP_FAILED, "no addresses for a device");
            return static_cast<std::byte*>(at);
        };
        addresses_ = map(PROT_NONE);
        content_ = map(PROT_READ | PROT_WRITE);
        ::close(file);
    }
    ~FakeMemory() {
        ::munmap(addresses_, capacity);
        ::munmap(content_, capacity);
    }
    FakeMemory(const FakeMemory&) = delete;
    FakeMemory& operator=(const FakeMemory&) = delete;

    /// Filled with a pattern.
    std::byte* allocate(size_t bytes) {
        std::byte* block = addresses_ + used_;
        used_ += (bytes + 63) / 64 * 64;
        CHECK(used_ <= capacity, "this device has {} bytes", capacity);
        std::memset(content_of(block), 0xDB, bytes);
        return block;
    }
    /// Takes back every allocation.
    void clear() { used_ = 0; }
    bool is_device(const void* data) const {
        const auto* at = static_cast<const std::byte*>(data);
        return at >= addresses_ && at < addresses_ + capacity;
    }
    /// Where the host reaches what lies at this address of either memory.
    std::byte* content_of(const void* data) const {
        const auto* at = static_cast<const std::byte*>(data);
        return is_device(data) ? content_ + (at - addresses_) : const_cast<std::byte*>(at);
    }

  private:
    static constexpr size_t capacity = size_t{256} << 20;

    std::byte* addresses_ = nullptr;  ///< PROT_NONE
    std::byte* content_ = nullptr;    ///< the same pages
    size_t used_ = 0;
};

/// The copies that reach such memory: what device memory is to a rank. Copies wait in a queue until
/// `synchronize`, as late as a device may do them.
class FakeDevice final : public parallel::DeviceCopies {
  public:
    enum class Copy { to_host, to_device, within_device };
    /// True: this copy is forgotten. A mutant of whatever stages.
    using Forgets = std::function<bool(Copy copy, int number)>;

    explicit FakeDevice(Forgets forgets = {}) : forgets_(std::move(forgets)) {}

    std::byte* allocate(size_t bytes) { return memory_.allocate(bytes); }
    void clear() {
        synchronize();
        memory_.clear();
    }
    int copies(Copy copy) const { return counts_[static_cast<size_t>(copy)]; }

    bool is_device(const void* data) const override { return memory_.is_device(data); }
    void to_host(void* host, const void* device, size_t bytes) override {
        CHECK(is_device(device) && !is_device(host), "to_host: from device memory to the host's");
        // Nobody knows what is there before `synchronize`; larger than any number of a test.
        std::memset(host, 0x7E, bytes);
        give(Copy::to_host, host, device, bytes);
    }
    void to_device(void* device, const void* host, size_t bytes) override {
        CHECK(is_device(device) && !is_device(host), "to_device: from host memory to the device's");
        give(Copy::to_device, device, host, bytes);
    }
    void within_device(void* to, const void* from, size_t bytes) override {
        CHECK(is_device(to) && is_device(from), "within_device: device memory twice");
        give(Copy::within_device, to, from, bytes);
    }
    void synchronize() override { run_until(given()); }
    MemorySource& host_memory() override { return plinth::host_memory(); }

    /// Work of a test's own, in the order of the rest: a kernel, say, which reaches memory by
    /// `content_of`.
    void then(std::function<void()> work) { queue_.push_back(std::move(work)); }
    std::byte* content_of(const void* data) const { return memory_.content_of(data); }
    /// How much work it was given so far.
    size_t given() const { return done_ + queue_.size(); }
    /// Does the work up to there, as `synchronize` does all of it.
    void run_until(size_t end) {
        while (done_ < end) {
            const std::function<void()> work = std::move(queue_.front());
            queue_.pop_front();
            ++done_;
            work();
        }
    }

    /// What a test itself does, in the same order.
    void write(std::byte* device, parallel::ConstBytes from) {
        queue_.push_back([this, device, values = std::vector(from.begin(), from.end())] {
            std::copy(values.begin(), values.end(), memory_.content_of(device));
        });
    }
    void read(parallel::Bytes to, const std::byte* device) {
        synchronize();
        std::copy_n(memory_.content_of(device), to.size(), to.begin());
    }

  private:
    void give(Copy copy, void* to, const void* from, size_t bytes) {
        const int number = counts_[static_cast<size_t>(copy)]++;
        if (forgets_ && forgets_(copy, number)) return;
        queue_.push_back(
            [=, this] { std::memmove(memory_.content_of(to), memory_.content_of(from), bytes); });
    }

    Forgets forgets_;
    FakeMemory memory_;
    int counts_[3] = {};
    std::deque<std::function<void()>> queue_;
    size_t done_ = 0;
};

class DeviceBuffers final : public BufferMemory {
  public:
    explicit DeviceBuffers(FakeDevice& device) : device_(device) {}
    std::byte* allocate(size_t bytes) override { return device_.allocate(bytes); }
    void write(std::byte* to, std::span<const std::byte> from) override { device_.write(to, from); }
    void read(std::span<std::byte> to, const std::byte* from) override { device_.read(to, from); }
    void clear() override { device_.clear(); }

  private:
    FakeDevice& device_;
};

/// Gives a rank's communicator a device for the time of a test.
class WithFakeDevice {
  public:
    explicit WithFakeDevice(parallel::Communicator& comm, FakeDevice::Forgets forgets = {})
        : comm_(comm) {
        auto device = std::make_unique<FakeDevice>(std::move(forgets));
        device_ = device.get();
        staging_ = std::make_shared<parallel::DeviceStaging>(std::move(device));
        comm_.set_device(staging_);
    }
    ~WithFakeDevice() { comm_.set_device(nullptr); }
    FakeDevice& operator*() { return *device_; }
    FakeDevice* operator->() { return device_; }

  private:
    parallel::Communicator& comm_;
    FakeDevice* device_;
    std::shared_ptr<parallel::DeviceStaging> staging_;
};

}  // namespace plinth::test
