// SPDX-License-Identifier: Apache-2.0
#include "launch/session.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "core/io/print.h"
#include "launch/environment.h"

namespace plinth::launch {

namespace {

int thread_count(int64_t wanted, int local_ranks) {
    return wanted > 0
               ? static_cast<int>(wanted)
               : std::max(1, static_cast<int>(usable_cores().size()) / std::max(1, local_ranks));
}

Device device_of(const SessionOptions& options) {
    if (device_type_of(options.device) == DeviceType::cpu) return {};
    const int devices = cuda_module().devices();
    return {DeviceType::cuda, options.local_rank % devices};
}

MemorySource& memory_of(Device device) {
    return device.type == DeviceType::cpu ? host_memory() : cuda_module().memory(device.index);
}

}  // namespace

void prepare_device_queues(DeviceExchange exchange) {
    constexpr const char* most = "32";  // of what the driver takes; 8 if nobody asks
    if (exchange == DeviceExchange::nccl)
        ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", most, /*overwrite=*/0);
}

DeviceType device_type_of(DeviceKind kind) {
    if (kind == DeviceKind::automatic)
        return has_cuda_device() ? DeviceType::cuda : DeviceType::cpu;
    return kind == DeviceKind::cuda ? DeviceType::cuda : DeviceType::cpu;
}

std::vector<int> usable_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cores;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &set)) cores.push_back(core);
    return cores;
}

Session::Session(parallel::Communicator& world, const SessionOptions& options)
    : world_(world),
      ranks_(world),
      stream_(device_of(options), thread_count(options.threads, options.local_ranks),
              options.stream),
      memory_(memory_of(stream_.device())),
      allocator_(memory_, CachingAllocator::Rounding::sizes, "activations and other tensors"),
      parts_(allocator_),
      algorithms_(algorithm_store_of(stream_), ranks_, files(),
                  {.folder = options.algorithm_cache,
                   .warn = [this](const std::string& line) { warn(line); }}) {
    if (device().type != DeviceType::cpu) {
        pinned_ = std::make_unique<CachingAllocator>(cuda_module().pinned_memory());
    } else if (options.device == DeviceKind::automatic && has_cuda_driver() && !has_cuda_device()) {
        warn(fmt::format("run.device=auto computes on the CPU: {}", no_cuda_device_reason()));
    }
    connection_ = std::make_unique<parallel::DeviceConnection>(world, stream_, device_way(options));
    if (options.device != DeviceKind::cpu) algorithms_.open();
    world.activity().count(stream_.pool().progress());
    start_resident_bytes_ = peak_resident_bytes();
}

ExchangeChoice exchange_choice(DeviceExchange wanted, DeviceType device,
                               const std::function<std::string()>& obstacle,
                               const std::function<std::string()>& version) {
    using parallel::DeviceWay;
    if (wanted == DeviceExchange::nccl) {
        const std::string reason = obstacle();
        REQUIRE(config, reason.empty(),
                "run.device_exchange=nccl is not possible: {}; set it to auto or host", reason);
        return {DeviceWay::nccl,
                fmt::format("GPUs exchange over NCCL {}, which this program has not been run with "
                            "on several GPUs; run.device_exchange=host is the way that has run",
                            version())};
    }
    if (wanted == DeviceExchange::host || device == DeviceType::cpu) return {};
    // Not `nccl`, until that has been run: nobody's first run is to try out code by default.
    return {DeviceWay::staged,
            "GPUs exchange by way of host memory; run.device_exchange=nccl lets them exchange "
            "directly, which has not been run on several GPUs"};
}

parallel::DeviceWay Session::device_way(const SessionOptions& options) {
    // What is asked for is the same on all ranks; whether they have devices may not be.
    if (options.device == DeviceKind::cpu || world_.size() == 1) return parallel::DeviceWay::staged;
    const ExchangeChoice choice = exchange_choice(
        options.exchange, device().type,
        [this] { return parallel::nccl_obstacle(world_, device()); },
        [] { return parallel::nccl_library().version(); });
    if (!choice.line.empty()) say(choice.line);
    return choice.way;
}

void Session::lock_folders(const RunConfig& config) {
    core::io::RunLockOptions options;
    options.say = [this](const std::string& line) { say(line); };
    locks_.acquire(
        {{config.run.folder, "run.folder"}, {config.checkpoint.folder, "checkpoint.folder"}},
        options);
}

void Session::say(const std::string& line) const {
    if (speaks()) core::io::print_best_effort(stdout, line + "\n");
}

void Session::warn(const std::string& line) const {
    if (speaks()) core::io::print_best_effort(stderr, fmt::format("warning: {}\n", line));
}

void Session::print_result(const std::string& text) const {
    if (!speaks()) return;
    core::io::print_result(text + "\n");
    core::io::flush_result();
}

double Session::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

DType dtype_of(ComputeType type) {
    return type == ComputeType::bf16 ? DType::bf16 : DType::f32;
}

}  // namespace plinth::launch
