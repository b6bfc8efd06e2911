// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <vector>

#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"

namespace plinth::test {

/// Host memory of which a queue knows that it is.
class NotedMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override {
        void* block = host_memory().allocate(bytes);
        blocks_[static_cast<std::byte*>(block)] = bytes;
        return block;
    }
    void free(void* block, size_t bytes) override {
        blocks_.erase(static_cast<std::byte*>(block));
        host_memory().free(block, bytes);
    }
    bool holds(const void* data) const {
        const auto* at = static_cast<const std::byte*>(data);
        const auto after = blocks_.upper_bound(const_cast<std::byte*>(at));
        if (after == blocks_.begin()) return false;
        const auto& [begin, bytes] = *std::prev(after);
        return at < begin + bytes;
    }

  private:
    std::map<std::byte*, size_t> blocks_;
};

/// What a queue was asked: the number of a place is how many there were before it.
struct QueueCall {
    enum Kind { place, wait_for_place, wait_for_all } kind = place;
    size_t number = 0;
    bool operator==(const QueueCall&) const = default;
};

/// Of a stream whose kernels are the CPU's: as late as a device may be. A place is passed when
/// somebody waits for it, or for a later one; what is copied to `late` memory is there only then.
class LateQueue final : public DeviceQueue {
  public:
    struct Options {
        const NotedMemory* late = nullptr;
        /// Says that every place was passed, and waits for nothing: a host that reads too early.
        bool never_waits = false;
    };
    LateQueue(std::vector<QueueCall>& calls, const Options& options)
        : calls_(calls), options_(options) {}
    explicit LateQueue(std::vector<QueueCall>& calls) : LateQueue(calls, {}) {}

    void copy(void* to, const void* from, size_t bytes) override {
        if (!options_.late || !options_.late->holds(to)) {
            std::memmove(to, from, bytes);
            return;
        }
        const auto* begin = static_cast<const std::byte*>(from);
        std::memset(to, 0x7E, bytes);  // nobody knows what is there before the wait
        late_copies_.push_back([to, values = std::vector<std::byte>(begin, begin + bytes)] {
            std::memcpy(to, values.data(), values.size());
        });
        copied_before_.push_back(places_);
    }
    void set_zero(void* to, size_t bytes) override { std::memset(to, 0, bytes); }
    void synchronize() override {
        calls_.push_back({QueueCall::wait_for_all});
        pass(places_);
    }
    void synchronize(DeviceEvent& event) override {
        const size_t number = static_cast<Place&>(event).number;
        calls_.push_back({QueueCall::wait_for_place, number});
        pass(number + 1);
    }
    std::unique_ptr<DeviceEvent> record() override {
        calls_.push_back({QueueCall::place, places_});
        return std::make_unique<Place>(*this, places_++);
    }
    void wait(DeviceEvent&) override {}
    /// A CPU stream captures by itself.
    std::unique_ptr<Graph> capture(FunctionRef<void()>) override {
        FAIL(internal, "this queue captures nothing");
    }
    void* handle() override { return nullptr; }

  private:
    struct Place final : DeviceEvent {
        Place(const LateQueue& queue, size_t at) : of(queue), number(at) {}
        bool is_done() override { return of.options_.never_waits || number < of.passed_; }
        const LateQueue& of;
        size_t number;
    };

    /// All work before the place of that number is done.
    void pass(size_t places) {
        if (options_.never_waits) return;
        passed_ = std::max(passed_, places);
        while (!late_copies_.empty() && copied_before_.front() < passed_) {
            late_copies_.front()();
            late_copies_.erase(late_copies_.begin());
            copied_before_.erase(copied_before_.begin());
        }
    }

    std::vector<QueueCall>& calls_;
    Options options_;
    size_t places_ = 0, passed_ = 0;
    std::vector<std::function<void()>> late_copies_;
    std::vector<size_t> copied_before_;  ///< the place of that number
};

}  // namespace plinth::test
