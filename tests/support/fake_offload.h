// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <deque>
#include <functional>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/copy_engine.h"
#include "tests/support/fake_device.h"

namespace plinth::test {

/// Tensors in memory that faults when the host touches it.
class FakeDeviceMemory final : public MemorySource {
  public:
    explicit FakeDeviceMemory(FakeDevice& device) : device_(device) {}
    Device device() const override { return {DeviceType::cuda, 0}; }
    void* allocate(size_t bytes) override { return device_.allocate(bytes); }
    void free(void*, size_t) override {}
    void set_zero(void* data, size_t bytes) override {
        device_.synchronize();
        std::memset(device_.content_of(data), 0, bytes);
    }

  private:
    FakeDevice& device_;
};

/// What goes wrong in a copy engine.
struct EngineFaults {
    int forgotten = -1;  ///< the copy of that number
    bool ignores_stream = false;
    bool does_not_hold = false;
    bool does_not_wait = false;
    int forgotten_wait = -1, forgotten_hold = -1;  ///< for, and of the stream: those of that number
};

/// When copies are done, of all the times at which they may be.
enum class CopyTime {
    late,   ///< when someone waits
    early,  ///< as soon as the stream's work that they wait for is done, which is then done at once
};

class FakeCopyEngine final : public CopyEngine {
  public:
    explicit FakeCopyEngine(FakeDevice& device, const EngineFaults& faults = {},
                            CopyTime time = CopyTime::late)
        : device_(device), faults_(faults), time_(time) {}

    void wait_for_stream() override {
        if (waits_++ == faults_.forgotten_wait || faults_.ignores_stream) return;
        give([this, before = device_.given()] { device_.run_until(before); });
    }
    void copy(void* to, const void* from, size_t bytes) override {
        CHECK(device_.is_device(to) != device_.is_device(from), "a copy within one memory");
        // Nobody knows what is there before `synchronize`; larger than any number of a test.
        if (!device_.is_device(to)) std::memset(to, 0x7E, bytes);
        if (copies_++ == faults_.forgotten) return;
        give([=, this] { std::memcpy(device_.content_of(to), device_.content_of(from), bytes); });
    }
    void hold_stream() override {
        if (holds_++ == faults_.forgotten_hold || faults_.does_not_hold) return;
        device_.then([this, before = given_] { run_until(before); });
    }
    std::unique_ptr<DeviceEvent> record() override {
        if (faults_.does_not_wait) return nullptr;
        return std::make_unique<Place>(
            [this, end = given_] { return given_ - queue_.size() >= end; });
    }
    void synchronize() override {
        if (!faults_.does_not_wait) run_until(given_);
    }
    int copies() const { return copies_; }
    int waits() const { return waits_; }
    int holds() const { return holds_; }

  private:
    class Place final : public DeviceEvent {
      public:
        explicit Place(std::function<bool()> is_done) : asks_(std::move(is_done)) {}
        bool is_done() override { return asks_(); }

      private:
        std::function<bool()> asks_;
    };

    void give(std::function<void()> work) {
        queue_.push_back(std::move(work));
        ++given_;
        if (time_ == CopyTime::early) run_until(given_);
    }
    void run_until(size_t end) {
        while (given_ - queue_.size() < end) {
            const std::function<void()> work = std::move(queue_.front());
            queue_.pop_front();
            work();
        }
    }

    FakeDevice& device_;
    EngineFaults faults_;
    CopyTime time_;
    int copies_ = 0, waits_ = 0, holds_ = 0;
    std::deque<std::function<void()>> queue_;
    size_t given_ = 0;
};

}  // namespace plinth::test
