// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

#include <condition_variable>
#include <mutex>
#include <thread>

namespace plinth::launch {

/// A thread that takes the signals of the process, so that handlers never run on a thread that
/// computes: oneDNN's sgemm points the stack register into its workspace on the heap, and the frame
/// of a signal handler, pushed there, overwrites what lies below (docs/decisions.md). Made at the
/// start of main(): threads that begin later inherit the blocked signals. Signals that a thread
/// raises by what it does (a fault, a write to a closed pipe) stay where they arise.
class SignalThread {
  public:
    SignalThread();
    /// Gives the calling thread its signals back.
    ~SignalThread();
    SignalThread(const SignalThread&) = delete;
    SignalThread& operator=(const SignalThread&) = delete;

  private:
    void idle();

    // Not a latch: that waits by a system call of its own, and ThreadSanitizer puts handlers off
    // until their thread is in a call that it knows, which then never comes.
    std::mutex mutex_;
    std::condition_variable changed_;
    bool is_over_ = false;
    sigset_t before_;
    std::thread thread_;
};

}  // namespace plinth::launch
