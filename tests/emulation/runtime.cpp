// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime functions that Plinth calls: the device, streams, events and captured graphs.
#include "tests/emulation/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "tests/emulation/machine.h"

namespace emulation {

namespace {

constexpr size_t shared_without_asking = size_t{48} << 10;
constexpr int multiprocessors = 8;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int captures = 0;
thread_local size_t shared_asked_for = shared_without_asking;

}  // namespace

Machine::Machine() {
    if (const char* kib = std::getenv("PLINTH_EMULATION_SHARED_KIB"))
        most_shared = static_cast<size_t>(std::atoi(kib)) << 10;
    const char* asked = std::getenv("PLINTH_EMULATION_ORDER");
    const std::string_view name = asked ? asked : "ascending";
    if (name == "descending")
        order = Order::descending;
    else if (name == "shuffled")
        order = Order::shuffled;
    else if (name == "warps")
        order = Order::warps;
    else if (name != "ascending") {
        std::fprintf(
            stderr, "PLINTH_EMULATION_ORDER=%s: ascending, descending, shuffled or warps\n", asked);
        std::abort();
    }
}

Machine& machine() {
    static auto& one = *new Machine;  // modules of threads that end late may still use it
    return one;
}

cudaError_t failed(cudaError_t status) {
    if (status != cudaSuccess) last_error = status;
    return status;
}

cudaError_t run_until(cudaStream_t stream, uint64_t number) {
    if (stream->done >= number) return machine().failure;
    const DeviceAccess access;
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

bool is_capturing() {
    return captures > 0;
}

namespace {

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
    if (!stream) {  // the stream that waits for the host in each call
        const DeviceAccess access;
        return work();
    }
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
    properties->sharedMemPerBlockOptin = machine().most_shared;
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

cudaError_t cudaDeviceSynchronize() {
    if (is_capturing()) return failed(cudaErrorStreamCaptureUnsupported);
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
        static_cast<size_t>(value) > machine().most_shared)
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
