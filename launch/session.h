// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/autograd/scope.h"
#include "core/io/file.h"
#include "launch/config/run_config.h"
#include "launch/folder_locks.h"
#include "launch/matmul_algorithms.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/nccl_links.h"
#include "parallel/comm/ranks_of.h"

namespace plinth::launch {

struct SessionOptions {
    /// 0: an equal share of the cores that this process may use among the ranks of its machine.
    int64_t threads = 0;
    int local_rank = 0;  ///< among the ranks of this machine: they take its devices in turn
    int local_ranks = 1;
    DeviceKind device = DeviceKind::cpu;
    DeviceExchange exchange = DeviceExchange::automatic;
    StreamOptions stream = {};
    /// Folder of the files that keep what products of GPUs were timed for; empty: none.
    std::string algorithm_cache = {};
};

/// What one rank of a stage stands on: its ranks, device, threads, memory, files and voice.
class Session {
  public:
    Session(parallel::Communicator& world, const SessionOptions& options);
    /// On the CPU.
    Session(parallel::Communicator& world, int64_t threads)
        : Session(world, SessionOptions{.threads = threads}) {}

    parallel::Communicator& world() { return world_; }
    /// Where hang reports look; named phases begin with a PhaseMark.
    parallel::Activity& activity() { return world_.activity(); }
    core::Ranks& ranks() { return ranks_; }
    Stream& stream() { return stream_; }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    Device device() const { return stream_.device(); }
    /// The device's memory, from which `allocator` takes its blocks.
    MemorySource& memory() const { return memory_; }
    /// Where tensors live.
    CachingAllocator& allocator() { return allocator_; }
    /// Parts of `allocator`, each under the name of what it holds.
    struct Parts {
        explicit Parts(CachingAllocator& all)
            : weights(all, "weights"), gradients(all, "gradients"), optimizer(all, "optimizer") {}
        CachingAllocator weights, gradients, optimizer;
    };
    Parts& parts() { return parts_; }
    /// Of host memory that the device's copies reach at full speed; on the CPU `allocator`.
    CachingAllocator& host_allocator() { return pinned_ ? *pinned_ : allocator_; }
    /// What `host_allocator` takes from.
    MemorySource& host_source() const {
        return pinned_ ? cuda_module().pinned_memory() : host_memory();
    }
    /// Of host memory in any amount, which the device does not reach; on the CPU `allocator`.
    CachingAllocator& pageable_allocator() { return pinned_ ? pageable_ : allocator_; }
    core::io::FileSystem& files() { return core::io::posix(); }
    int threads() { return stream_.pool().threads(); }
    /// Of the products on the ranks' devices.
    MatmulAlgorithms& algorithms() { return algorithms_; }
    /// What keeps other jobs out of this job's folders while the session lasts.
    FolderLocks& locks() { return locks_; }
    /// Collective. Locks run.folder and checkpoint.folder; refused where another job holds one.
    void lock_folders(const RunConfig& config);

    /// One line on rank 0's standard output, or standard error for warnings; nothing elsewhere.
    void say(const std::string& line) const;
    void warn(const std::string& line) const;
    /// What the stage was asked for, on rank 0's standard output, whose failure is an error.
    void print_result(const std::string& text) const;
    bool speaks() const { return world_.rank() == 0; }

    /// Seconds since the session began.
    double seconds() const;
    /// The most that this process has had in RAM when the session began: libraries, MPI and the
    /// device's module, but no model.
    int64_t start_resident_bytes() const { return start_resident_bytes_; }

    /// Surroundings of an operation that is not recorded; set `tape`, `step` and `training` to
    /// train.
    core::Scope::Settings scope(DType compute) {
        return {.stream = &stream_,
                .allocator = &allocator_,
                .weights = &parts_.weights,
                .compute = compute};
    }

  private:
    /// Collective.
    parallel::DeviceWay device_way(const SessionOptions& options);

    parallel::Communicator& world_;
    parallel::RanksOf ranks_;
    Stream stream_;
    MemorySource& memory_;
    CachingAllocator allocator_;
    Parts parts_;
    std::unique_ptr<CachingAllocator> pinned_;  ///< null on the CPU
    CachingAllocator pageable_{host_memory()};
    std::unique_ptr<parallel::DeviceConnection> connection_;
    MatmulAlgorithms algorithms_;
    FolderLocks locks_{files(), ranks_};
    int64_t start_resident_bytes_ = 0;
    std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

/// How the devices of several ranks exchange.
struct ExchangeChoice {
    parallel::DeviceWay way = parallel::DeviceWay::staged;
    std::string line;  ///< of the log; empty where there is nothing to say
};
/// `obstacle` says why NCCL cannot be used, `version` which one it is; both are asked only where it
/// was chosen. An error of kind config where it was chosen and cannot be.
ExchangeChoice exchange_choice(DeviceExchange wanted, DeviceType device,
                               const std::function<std::string()>& obstacle,
                               const std::function<std::string()>& version);

/// Before anything may start the device's driver (MPI can), on one thread. With NCCL asks the
/// driver for more hardware queues, unless CUDA_DEVICE_MAX_CONNECTIONS says how many: each
/// communicator has a stream, and where streams share a queue an exchange can stand behind one that
/// waits for it.
void prepare_device_queues(DeviceExchange exchange);

/// What `automatic` stands for on this machine.
DeviceType device_type_of(DeviceKind kind);

/// Numbers of the cores that this process may use, ascending; none if the system does not say.
std::vector<int> usable_cores();

DType dtype_of(ComputeType type);

}  // namespace plinth::launch
