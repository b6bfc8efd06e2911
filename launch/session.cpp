// SPDX-License-Identifier: Apache-2.0
#include "launch/session.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>

#include "core/io/print.h"

namespace plinth::launch {

namespace {

int usable_cores() {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
    return CPU_COUNT(&cores);
}

int thread_count(int64_t wanted, int local_ranks) {
    return wanted > 0 ? static_cast<int>(wanted)
                      : std::max(1, usable_cores() / std::max(1, local_ranks));
}

}  // namespace

Session::Session(parallel::Communicator& world, int64_t threads, int local_ranks)
    : world_(world),
      ranks_(world),
      stream_(thread_count(threads, local_ranks)),
      allocator_(host_memory()) {}

void Session::say(const std::string& line) const {
    if (speaks()) core::io::print_best_effort(stdout, line + "\n");
}

void Session::warn(const std::string& line) const {
    if (speaks()) core::io::print_best_effort(stderr, fmt::format("warning: {}\n", line));
}

double Session::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

DType dtype_of(ComputeType type) {
    return type == ComputeType::bf16 ? DType::bf16 : DType::f32;
}

}  // namespace plinth::launch
