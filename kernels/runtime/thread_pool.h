// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/runtime/function_ref.h"

namespace plinth {

/// The threads of one rank. A loop is cut into chunks by the shape of the work, never by the number
/// of threads, and a chunk is computed by one thread: so the number of threads cannot change a
/// result.
class ThreadPool {
  public:
    /// `threads` counts the caller: 1 starts none.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    /// Calls body(chunk) once for each chunk in [0, chunks), in no fixed order, and returns when
    /// all are done. The first exception is rethrown here. Not reentrant: a body must not call
    /// `run` on its own pool.
    void run(int64_t chunks, FunctionRef<void(int64_t)> body);

    /// Chunks that calling threads have computed, and loops that the threads have shared: it rises
    /// while a rank works. It is read by other threads and may outlive the pool.
    std::shared_ptr<const std::atomic<uint64_t>> progress() const { return progress_; }

  private:
    void work();
    void take_chunks(bool is_caller);
    /// One thread calls at a time, so that a store is enough.
    void count_work() {
        progress_->store(progress_->load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int> busy_{0};
    bool stop_ = false;

    const FunctionRef<void(int64_t)>* body_ = nullptr;
    int64_t chunks_ = 0;
    std::atomic<int64_t> next_{0};
    std::exception_ptr error_;
    std::shared_ptr<std::atomic<uint64_t>> progress_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace plinth
