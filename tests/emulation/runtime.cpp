// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime functions that Plinth calls, over host memory.
#include "tests/emulation/runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
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

namespace {

constexpr size_t shared_without_asking = size_t{48} << 10, most_shared = size_t{227} << 10;
constexpr size_t device_bytes = size_t{16} << 30;
constexpr int multiprocessors = 8;

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
    Order order = Order::ascending;

    Machine() {
        const char* asked = std::getenv("PLINTH_EMULATION_ORDER");
        const std::string_view name = asked ? asked : "ascending";
        if (name == "descending")
            order = Order::descending;
        else if (name == "shuffled")
            order = Order::shuffled;
        else if (name == "warps")
            order = Order::warps;
        else if (name != "ascending") {
            std::fprintf(stderr,
                         "PLINTH_EMULATION_ORDER=%s: ascending, descending, shuffled or warps\n",
                         asked);
            std::abort();
        }
    }
};

Machine& machine() {
    static auto& one = *new Machine;  // modules of threads that end late may still use it
    return one;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int captures = 0;
thread_local size_t shared_asked_for = shared_without_asking;

cudaError_t failed(cudaError_t status) {
    if (status != cudaSuccess) last_error = status;
    return status;
}

/// Runs the work of a stream up to that number, in order.
cudaError_t run_until(cudaStream_t stream, uint64_t number) {
    while (stream->done < number) {
        const auto work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        ++stream->done;
        const cudaError_t status = work();
        if (status != cudaSuccess && machine().failure == cudaSuccess) machine().failure = status;
    }
    return machine().failure;
}

cudaError_t run_all() {
    for (const cudaStream_t stream : std::vector<cudaStream_t>(machine().streams))
        run_until(stream, stream->enqueued);
    return machine().failure;
}

const Allocation* allocation_of(const void* data) {
    const auto& all = machine().allocations;
    auto found = all.upper_bound(static_cast<std::byte*>(const_cast<void*>(data)));
    if (found == all.begin()) return nullptr;
    --found;
    return data < found->first + found->second.bytes ? &found->second : nullptr;
}

/// Ends right before a page that faults, but for what is left of 256 bytes; filled with a pattern.
cudaError_t allocate(void** block, size_t bytes, Memory kind) {
    const std::lock_guard lock(machine().mutex);
    if (bytes == 0) {
        *block = nullptr;
        return cudaSuccess;
    }
    if (kind == Memory::device && machine().allocated + bytes > device_bytes)
        return failed(cudaErrorMemoryAllocation);
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t rounded = (bytes + 255) / 256 * 256;
    const size_t mapped = (rounded + page - 1) / page * page + page;
    void* mapping =
        mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
    mprotect(static_cast<std::byte*>(mapping) + mapped - page, page, PROT_NONE);
    std::byte* start = static_cast<std::byte*>(mapping) + mapped - page - rounded;
    std::memset(start, 0xFF, bytes);
    if (kind == Memory::device) machine().allocated += bytes;
    machine().allocations[start] = {kind, bytes, mapping, mapped};
    *block = start;
    return cudaSuccess;
}

cudaError_t release(void* block) {
    const std::lock_guard lock(machine().mutex);
    if (!block) return cudaSuccess;
    const cudaError_t status = run_all();  // as CUDA does: the device may still use it
    const auto found = machine().allocations.find(static_cast<std::byte*>(block));
    if (found == machine().allocations.end()) return failed(cudaErrorInvalidValue);
    if (found->second.kind == Memory::device) machine().allocated -= found->second.bytes;
    munmap(found->second.mapping, found->second.mapped);
    machine().allocations.erase(found);
    return status;
}

cudaError_t run_kernel(dim3 blocks, dim3 threads, size_t shared_bytes,
                       const std::function<void()>& body) {
    Place place{.threads = {threads.x, threads.y, threads.z},
                .blocks = {blocks.x, blocks.y, blocks.z}};
    for (unsigned z = 0; z < blocks.z; ++z)
        for (unsigned y = 0; y < blocks.y; ++y)
            for (unsigned x = 0; x < blocks.x; ++x) {
                place.block = {x, y, z};
                const std::string error = run_block(place, shared_bytes, machine().order, body);
                if (error.empty()) continue;
                std::fprintf(stderr, "emulated device: block (%u, %u, %u): %s\n", x, y, z,
                             error.c_str());
                return cudaErrorLaunchFailure;
            }
    return cudaSuccess;
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
    const std::lock_guard lock(machine().mutex);
    if (machine().failure != cudaSuccess) return failed(machine().failure);
    if (!stream) return work();  // the stream that waits for the host in each call
    if (stream->graph) {
        stream->graph->work.push_back(std::move(work));
        return cudaSuccess;
    }
    stream->waiting.push_back(std::move(work));
    ++stream->enqueued;
    return cudaSuccess;
}

void enqueue_kernel(dim3 blocks, dim3 threads, size_t shared_bytes, cudaStream_t stream,
                    std::function<void()> body) {
    const uint64_t all_threads = uint64_t{threads.x} * threads.y * threads.z;
    const bool fits = blocks.x > 0 && blocks.y > 0 && blocks.z > 0 && blocks.x <= 0x7fffffffu &&
                      blocks.y <= 65535 && blocks.z <= 65535 && all_threads > 0 &&
                      all_threads <= 1024 && threads.z <= 64;
    if (!fits) {
        failed(cudaErrorInvalidConfiguration);
        return;
    }
    if (shared_bytes > shared_asked_for) {
        failed(cudaErrorInvalidValue);
        return;
    }
    failed(enqueue(stream, [=, body = std::move(body)] {
        return run_kernel(blocks, threads, shared_bytes, body);
    }));
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {};
    std::strncpy(properties->name, "emulated device (no GPU)", sizeof(properties->name) - 1);
    properties->major = 9;
    properties->minor = 0;
    properties->multiProcessorCount = multiprocessors;
    properties->totalGlobalMem = device_bytes;
    properties->sharedMemPerBlockOptin = most_shared;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = multiprocessors;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = 9;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            return cudaSuccess;
        default:
            return failed(cudaErrorInvalidValue);
    }
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
    return last_error;
}
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        default:
            return "cudaErrorUnknown";
    }
}
const char* cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}

cudaError_t cudaMalloc(void** block, size_t bytes) {
    if (captures > 0) return failed(cudaErrorStreamCaptureUnsupported);
    return allocate(block, bytes, Memory::device);
}
cudaError_t cudaFree(void* block) {
    if (captures > 0) return failed(cudaErrorStreamCaptureUnsupported);
    return release(block);
}
cudaError_t cudaHostAlloc(void** block, size_t bytes, unsigned) {
    return allocate(block, bytes, Memory::pinned);
}
cudaError_t cudaFreeHost(void* block) {
    return release(block);
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* all) {
    *all = device_bytes;
    *free_bytes = device_bytes - machine().allocated;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
    const std::lock_guard lock(machine().mutex);
    *attributes = {};
    const Allocation* found = allocation_of(data);
    attributes->type = !found                          ? cudaMemoryTypeUnregistered
                       : found->kind == Memory::device ? cudaMemoryTypeDevice
                                                       : cudaMemoryTypeHost;
    return cudaSuccess;
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
    if (captures > 0) return failed(cudaErrorStreamCaptureUnsupported);
    const std::lock_guard lock(machine().mutex);
    std::memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] {
        std::memset(to, value, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
    const std::lock_guard lock(machine().mutex);
    // Host memory that is not pinned: read before the call returns, and written before it.
    if (!allocation_of(from)) {
        const auto* first = static_cast<const std::byte*>(from);
        auto copy = std::make_shared<std::vector<std::byte>>(first, first + bytes);
        return enqueue(stream, [=] {
            std::memcpy(to, copy->data(), bytes);
            return cudaSuccess;
        });
    }
    const cudaError_t status = enqueue(stream, [=] {
        std::memcpy(to, from, bytes);
        return cudaSuccess;
    });
    if (status != cudaSuccess || allocation_of(to) || !stream || stream->graph) return status;
    return run_until(stream, stream->enqueued);
}

cudaError_t cudaDeviceSynchronize() {
    if (captures > 0) return failed(cudaErrorStreamCaptureUnsupported);
    const std::lock_guard lock(machine().mutex);
    return run_all();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::lock_guard lock(machine().mutex);
    *stream = new CUstream_st;
    machine().streams.push_back(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard lock(machine().mutex);
    run_until(stream, stream->enqueued);
    std::erase(machine().streams, stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard lock(machine().mutex);
    if (stream->graph) return failed(cudaErrorStreamCaptureUnsupported);
    return run_until(stream, stream->enqueued);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const std::lock_guard lock(machine().mutex);
    if (event->graph) {  // joins the capture; the graph's work is in an order that fits
        stream->graph = event->graph;
        return cudaSuccess;
    }
    if (!event->stream) return cudaSuccess;
    return enqueue(stream, [other = event->stream, number = event->number] {
        const auto& all = machine().streams;
        if (std::find(all.begin(), all.end(), other) == all.end()) return cudaSuccess;
        return run_until(other, number);
    });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const std::lock_guard lock(machine().mutex);
    event->graph = stream->graph;
    event->stream = stream->graph ? nullptr : stream;
    event->number = stream->enqueued;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const std::lock_guard lock(machine().mutex);
    if (event->graph) return failed(cudaErrorStreamCaptureUnsupported);
    if (!event->stream) return cudaSuccess;
    const cudaError_t status = run_until(event->stream, event->number);
    event->time = std::chrono::steady_clock::now();
    return status;
}
/// Nothing runs by itself, so every question runs a piece of what is asked for.
cudaError_t cudaEventQuery(cudaEvent_t event) {
    const std::lock_guard lock(machine().mutex);
    if (!event->stream || event->stream->done >= event->number) return machine().failure;
    run_until(event->stream, event->stream->done + 1);
    return failed(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize ||
        static_cast<size_t>(value) > most_shared)
        return failed(cudaErrorInvalidValue);
    shared_asked_for = std::max(shared_asked_for, static_cast<size_t>(value));
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const std::lock_guard lock(machine().mutex);
    if (stream->graph) return failed(cudaErrorStreamCaptureUnsupported);
    stream->graph = new CUgraph_st;
    stream->is_origin = true;
    ++captures;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const std::lock_guard lock(machine().mutex);
    *graph = nullptr;
    if (!stream->graph || !stream->is_origin) return failed(cudaErrorStreamCaptureUnsupported);
    --captures;
    *graph = stream->graph;
    for (const cudaStream_t other : machine().streams)
        if (other->graph == *graph) other->graph = nullptr;
    stream->is_origin = false;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream->graph ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* nodes) {
    *nodes = graph->work.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
    *executable = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    const std::lock_guard lock(machine().mutex);
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    const std::lock_guard lock(machine().mutex);
    for (const auto& work : executable->work)
        if (const cudaError_t status = enqueue(stream, work); status != cudaSuccess) return status;
    return cudaSuccess;
}

}  // extern "C"
