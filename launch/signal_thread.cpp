// SPDX-License-Identifier: Apache-2.0
#include "launch/signal_thread.h"

namespace plinth::launch {

namespace {

constexpr int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPIPE};

}  // namespace

SignalThread::SignalThread() : thread_([this] { idle(); }) {
    sigset_t signals;
    sigfillset(&signals);
    for (int signal : own)
        sigdelset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
}

SignalThread::~SignalThread() {
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    {
        const std::lock_guard lock(mutex_);
        is_over_ = true;
    }
    changed_.notify_one();
    thread_.join();
}

void SignalThread::idle() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_over_; });
}

}  // namespace plinth::launch
