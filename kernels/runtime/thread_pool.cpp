// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/thread_pool.h"

#include "kernels/runtime/error.h"

namespace plinth {

namespace {
// Kernels follow each other within microseconds, a sleeping thread wakes in tens of them: look this
// often before sleeping.
constexpr int spins_before_sleep = 2000;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}
}  // namespace

ThreadPool::ThreadPool(int threads) {
    CHECK(threads >= 1, "a thread pool needs at least one thread, got {}", threads);
    for (int i = 1; i < threads; ++i)
        workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
        generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_)
        worker.join();
}

void ThreadPool::run(int64_t chunks, FunctionRef<void(int64_t)> body) {
    if (chunks <= 0) return;
    if (workers_.empty() || chunks == 1) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            body(chunk);
            count_work();
        }
        return;
    }
    {
        std::lock_guard lock(mutex_);
        body_ = &body;
        chunks_ = chunks;
        error_ = nullptr;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_chunks(true);
    for (int spin = 0; spin < spins_before_sleep && busy_.load(std::memory_order_acquire) != 0;
         ++spin)
        relax();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
    count_work();  // the others may have taken every chunk
    if (error_) std::rethrow_exception(error_);
}

void ThreadPool::take_chunks(bool is_caller) {
    try {
        for (int64_t chunk = next_.fetch_add(1); chunk < chunks_; chunk = next_.fetch_add(1)) {
            (*body_)(chunk);
            if (is_caller) count_work();
        }
    } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
    }
}

void ThreadPool::work() {
    uint64_t seen = 0;
    while (true) {
        for (int spin = 0;
             spin < spins_before_sleep && generation_.load(std::memory_order_acquire) == seen;
             ++spin)
            relax();
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
            seen = generation_.load(std::memory_order_acquire);
            if (stop_) return;
        }
        take_chunks(false);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            std::lock_guard lock(mutex_);
            done_.notify_all();
        }
    }
}

}  // namespace plinth
