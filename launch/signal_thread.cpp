// SPDX-License-Identifier: Apache-2.0
#include "launch/signal_thread.h"

namespace plinth::launch {

namespace {

constexpr int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPIPE};

}  // namespace

SignalThread::SignalThread() : thread_([this] { end_.wait(); }) {
    sigset_t signals;
    sigfillset(&signals);
    for (int signal : own)
        sigdelset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
}

SignalThread::~SignalThread() {
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    end_.count_down();
    thread_.join();
}

}  // namespace plinth::launch
