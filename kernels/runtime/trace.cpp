// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/trace.h"

#include <atomic>

namespace plinth {

namespace {

/// A profiler watches a process, so this is one of the few things that a process has once.
std::atomic<TraceSink*>& place() {
    static constinit std::atomic<TraceSink*> sink{nullptr};
    return sink;
}

}  // namespace

TraceSink* trace_sink() {
    return place().load(std::memory_order_acquire);
}

void set_trace_sink(TraceSink* sink) {
    place().store(sink, std::memory_order_release);
}

}  // namespace plinth
