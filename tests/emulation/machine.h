// SPDX-License-Identifier: Apache-2.0
// What the parts of the emulated CUDA runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "tests/emulation/block.h"

// CUDA's opaque types.
struct CUstream_st;
struct CUgraph_st {
    std::vector<std::function<cudaError_t()>> work;
};
struct CUgraphExec_st {
    std::vector<std::function<cudaError_t()>> work;
};
struct CUevent_st {
    CUstream_st* stream = nullptr;  ///< where it was recorded last
    uint64_t number = 0;            ///< of the work that it waits for there
    CUgraph_st* graph = nullptr;    ///< in which it was recorded
    std::chrono::steady_clock::time_point time;
};
struct CUstream_st {
    std::deque<std::function<cudaError_t()>> waiting;
    uint64_t enqueued = 0, done = 0;
    CUgraph_st* graph = nullptr;  ///< what it is captured into
    bool is_origin = false;
};

namespace emulation {

constexpr size_t device_bytes = size_t{16} << 30;

enum class Memory { device, pinned };
struct Allocation {
    Memory kind;
    size_t bytes;
    void* mapping;
    size_t mapped;
};

/// All of the emulated machine. One lock: work runs in whichever thread waits for it.
struct Machine {
    std::recursive_mutex mutex;
    std::map<std::byte*, Allocation> allocations;
    std::vector<cudaStream_t> streams;
    size_t allocated = 0;
    cudaError_t failure = cudaSuccess;  ///< of work that ran: no later call succeeds
    int opened = 0;                     ///< DeviceAccess that live
    Order order = Order::ascending;
    /// That a block may ask for: of an H100, or PLINTH_EMULATION_SHARED_KIB.
    size_t most_shared = size_t{227} << 10;

    Machine();
};

Machine& machine();

/// While one lives the device's memory may be touched: by work, and by nobody else. A host that
/// reads or writes it ends there, as with a card's. Under the machine's lock.
class DeviceAccess {
  public:
    DeviceAccess();
    ~DeviceAccess();
    DeviceAccess(const DeviceAccess&) = delete;
    DeviceAccess& operator=(const DeviceAccess&) = delete;
};

/// The status, which cudaGetLastError of this thread gives next if it is an error.
cudaError_t failed(cudaError_t status);
/// This thread captures something: what waits or takes memory is an error.
bool is_capturing();

/// Runs the work of a stream up to that number, in order. The first error of any work so far.
cudaError_t run_until(cudaStream_t stream, uint64_t number);
/// The same of all streams, to their ends.
cudaError_t run_all();

}  // namespace emulation
