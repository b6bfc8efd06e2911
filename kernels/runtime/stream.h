// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "kernels/runtime/device.h"
#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"
#include "kernels/runtime/function_ref.h"
#include "kernels/runtime/graph.h"
#include "kernels/runtime/thread_pool.h"

namespace plinth {

/// An ordered queue of work on one device; every kernel takes one as its last argument. On the CPU
/// the work is done when the call returns, by the stream's own threads; on a device once
/// `synchronize` has returned. A stream is used by one thread at a time.
class Stream {
  public:
    /// A CPU stream; `threads` counts the calling thread.
    explicit Stream(int threads) : pool_(std::make_unique<ThreadPool>(threads)) {}
    /// A stream of that device, and threads for the work that stays on the host.
    Stream(Device device, int threads, const StreamOptions& options = {});

    Device device() const { return device_; }
    ThreadPool& pool() { return *pool_; }
    /// Of a stream that is not the CPU's.
    DeviceQueue& queue() { return *queue_; }

    /// The kernel of that name in the device's module. Throws by name when the build has none.
    void* device_kernel(const char* name) const;

    /// In the order of the stream's work. Each of the two is in host memory or on this device; host
    /// memory stays as it is until `synchronize`.
    void copy(void* to, const void* from, size_t bytes);
    void set_zero(void* to, size_t bytes);
    /// Waits until everything given to it is done.
    void synchronize() {
        CHECK(!is_capturing(), "a wait for work that is captured and not done");
        if (!queue_) return;
        queue_->before_waiting();
        queue_->synchronize();
    }
    /// The place after all work so far; null where that is done.
    std::unique_ptr<DeviceEvent> record() {
        CHECK(!is_capturing(), "a place in work that is captured and not done");
        return queue_ ? queue_->record() : nullptr;
    }
    /// Waits until the work before that place of this stream is done, and not for what came later.
    void synchronize(DeviceEvent* event) {
        if (!event) return;
        queue_->before_waiting(event);
        queue_->synchronize(*event);
    }
    /// What `work` gives to this stream, of which nothing is done: on the CPU its kernels and
    /// copies with their arguments, on a device see DeviceQueue::capture. Host memory is none of
    /// it: what is read or written there is read and written now. The stream must outlive the
    /// graph.
    std::unique_ptr<Graph> capture(FunctionRef<void()> work);
    bool is_capturing() const { return is_capturing_; }
    /// Of a CPU stream that captures: one kernel or copy.
    void keep(std::function<void(Stream&)> work) { captured_->keep(std::move(work)); }

    /// Of a CPU stream: its copies, places and waits are those of `queue` from here on, while its
    /// kernels stay the CPU's. A stand-in for a device.
    void set_queue(std::unique_ptr<DeviceQueue> queue) { queue_ = std::move(queue); }
    /// Of a device's stream, see DeviceQueue::set_before_waiting; of another one nothing.
    void set_before_waiting(DeviceQueue::BeforeWaiting before) {
        if (queue_) queue_->set_before_waiting(std::move(before));
    }

  private:
    Device device_;
    std::unique_ptr<ThreadPool> pool_;
    std::unique_ptr<DeviceQueue> queue_;
    bool is_capturing_ = false;
    std::unique_ptr<HostGraph> captured_;  ///< while a CPU stream captures
};

/// Zeros in host memory, by the threads of a stream of any device; they are there when it returns.
void zero_host_memory(Stream& stream, void* data, size_t bytes);

/// Runs body(begin, end) over fixed ranges of `grain` items of [0, items): the cut depends on the
/// shape alone.
template <typename Body>
void parallel_for(Stream& stream, int64_t items, int64_t grain, Body&& body) {
    const int64_t chunks = (items + grain - 1) / grain;
    stream.pool().run(chunks, [&](int64_t chunk) {
        const int64_t begin = chunk * grain;
        body(begin, begin + grain < items ? begin + grain : items);
    });
}

}  // namespace plinth
