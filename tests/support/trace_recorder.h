// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/runtime/trace.h"

namespace plinth::test {

/// Stands in for a profiler while it lives: keeps each range with those around it.
class TraceRecorder final : public TraceSink {
  public:
    TraceRecorder() { set_trace_sink(this); }
    ~TraceRecorder() override { set_trace_sink(nullptr); }
    TraceRecorder(const TraceRecorder&) = delete;
    TraceRecorder& operator=(const TraceRecorder&) = delete;

    void push(const char* name) override {
        const std::lock_guard lock(mutex_);
        auto& open = open_[std::this_thread::get_id()];
        open.push_back(open.empty() ? name : open.back() + "/" + name);
        paths_.push_back(open.back());
    }
    void pop() override {
        const std::lock_guard lock(mutex_);
        auto& open = open_[std::this_thread::get_id()];
        is_balanced_ = is_balanced_ && !open.empty();
        if (!open.empty()) open.pop_back();
    }

    /// "outer/inner" in the order in which they began; a name may have slashes of its own.
    std::vector<std::string> paths() const {
        const std::lock_guard lock(mutex_);
        return paths_;
    }
    int64_t count(const std::string& path) const {
        const std::lock_guard lock(mutex_);
        return std::ranges::count(paths_, path);
    }
    /// Every range that began has ended, and no other.
    bool is_balanced() const {
        const std::lock_guard lock(mutex_);
        return is_balanced_ &&
               std::ranges::all_of(open_, [](const auto& entry) { return entry.second.empty(); });
    }

  private:
    mutable std::mutex mutex_;
    std::map<std::thread::id, std::vector<std::string>> open_;
    std::vector<std::string> paths_;
    bool is_balanced_ = true;
};

}  // namespace plinth::test
