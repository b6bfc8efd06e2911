// SPDX-License-Identifier: Apache-2.0
#include "launch/stop_signal.h"

#include <atomic>
#include <csignal>

namespace plinth::launch {

namespace {

// A global: a signal handler can reach nothing else. Atomic: it runs on another thread than those
// that ask.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

constexpr int stop_signals[] = {SIGUSR1, SIGTERM, SIGINT};

void on_signal(int signal) {
    stop_requested = true;
    if (signal == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
    stop_requested = false;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (int signal : stop_signals)
        sigaction(signal, &action, nullptr);
}

StopSignal::~StopSignal() {
    // mpirun hands a signal to one rank after the other: the first may end the run before the last
    // rank gets its own, which must not kill a process that is about to end well.
    std::signal(SIGUSR1, SIG_IGN);
    std::signal(SIGTERM, SIG_IGN);
    std::signal(SIGINT, SIG_DFL);
}

bool StopSignal::requested() const {
    return stop_requested;
}

}  // namespace plinth::launch
