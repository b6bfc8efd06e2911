// SPDX-License-Identifier: Apache-2.0
// Names for what a thread does, for a profiler.
#pragma once

namespace plinth {

/// Where ranges go. From any thread; the ranges of one thread nest.
class TraceSink {
  public:
    virtual ~TraceSink() = default;
    /// Begins a range. The name may go away when the call returns.
    virtual void push(const char* name) = 0;
    /// Ends the innermost range of this thread.
    virtual void pop() = 0;
};

/// That of the whole process; null, as at first, where there is none: a range then costs a load.
/// Loading a device's module sets its own (the device's profilers cannot be asked before).
TraceSink* trace_sink();
/// The sink must outlive all ranges.
void set_trace_sink(TraceSink* sink);

/// A range until the end of a block.
class TraceRange {
  public:
    explicit TraceRange(const char* name) : sink_(trace_sink()) {
        if (sink_) sink_->push(name);
    }
    ~TraceRange() {
        if (sink_) sink_->pop();
    }
    TraceRange(const TraceRange&) = delete;
    TraceRange& operator=(const TraceRange&) = delete;

  private:
    TraceSink* sink_;
};

}  // namespace plinth
