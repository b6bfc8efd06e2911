// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>
#include <cudnn.h>

#include <map>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

namespace {

std::unordered_map<std::string_view, void*>& kernel_table() {
    static std::unordered_map<std::string_view, void*> table;
    return table;
}

class DeviceMemory final : public MemorySource {
  public:
    explicit DeviceMemory(int index) : index_(index) {}
    Device device() const override { return {DeviceType::cuda, index_}; }
    void* allocate(size_t bytes) override {
        CUDA_CHECK(cudaSetDevice(index_));
        void* block = nullptr;
        const cudaError_t status = cudaMalloc(&block, bytes);
        if (status == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            const auto [free_bytes, all] = free_and_all();
            throw OutOfMemory(fmt::format("out of device memory: {} bytes asked for, {} of {} free",
                                          bytes, free_bytes, all),
                              __FILE__, __LINE__);
        }
        REQUIRE(internal, status != cudaErrorStreamCaptureUnsupported,
                "captured work takes {} bytes from the device: the same work must have run before",
                bytes);
        CUDA_CHECK(status);
        return block;
    }
    void free(void* block, size_t) override { cudaFree(block); }
    void set_zero(void* block, size_t bytes) override {
        CUDA_CHECK(cudaSetDevice(index_));
        CUDA_CHECK(cudaMemset(block, 0, bytes));
        CUDA_CHECK(cudaDeviceSynchronize());
    }
    size_t available() const override { return free_and_all().first; }

  private:
    std::pair<size_t, size_t> free_and_all() const {
        CUDA_CHECK(cudaSetDevice(index_));
        size_t free_bytes = 0, all = 0;
        CUDA_CHECK(cudaMemGetInfo(&free_bytes, &all));
        return {free_bytes, all};
    }

    int index_;
};

class PinnedMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override {
        void* block = nullptr;
        const cudaError_t status = cudaHostAlloc(&block, bytes, cudaHostAllocPortable);
        if (status == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            throw OutOfMemory(fmt::format("no {} bytes of pinned host memory", bytes), __FILE__,
                              __LINE__);
        }
        CUDA_CHECK(status);
        return block;
    }
    void free(void* block, size_t) override { cudaFreeHost(block); }
};

std::string version_text(int driver) {
    return fmt::format("CUDA driver {}.{}, cuBLASLt {}, cuDNN {}", driver / 1000,
                       driver % 1000 / 10, cublasLtGetVersion(), cudnnGetVersion());
}

class Module final : public DeviceModule {
  public:
    Module() {
        const cudaError_t status = cudaGetDeviceCount(&devices_);
        REQUIRE(config, status == cudaSuccess, "no CUDA device: {}", cudaGetErrorString(status));
        for (int i = 0; i < devices_; ++i)
            memories_.push_back(std::make_unique<DeviceMemory>(i));
    }
    int devices() const override { return devices_; }
    DeviceInfo info(int index) const override {
        cudaDeviceProp properties{};
        CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
        int driver = 0;
        CUDA_CHECK(cudaDriverGetVersion(&driver));
        std::string identity;  // of a slice, where the device is cut into slices
        for (const char byte : properties.uuid.bytes)
            identity += fmt::format("{:02x}", static_cast<unsigned char>(byte));
        return {.name = properties.name,
                .capability = properties.major * 10 + properties.minor,
                .multiprocessors = properties.multiProcessorCount,
                .memory_bytes = properties.totalGlobalMem,
                .versions = version_text(driver),
                .identity = identity};
    }
    MemorySource& memory(int index) override { return *memories_.at(static_cast<size_t>(index)); }
    MemorySource& pinned_memory() override { return pinned_; }
    std::unique_ptr<DeviceQueue> queue(int index, const StreamOptions& options) override {
        REQUIRE(config, index >= 0 && index < devices_,
                "run.device: cuda:{} of {} devices of this machine", index, devices_);
        return std::make_unique<Queue>(index, memory(index), options);
    }
    void* kernel(const char* name) const override {
        const auto found = kernel_table().find(name);
        return found == kernel_table().end() ? nullptr : found->second;
    }
    void copy(int index, void* to, const void* from, size_t bytes) override {
        CUDA_CHECK(cudaSetDevice(index));
        const cudaStream_t stream = copy_stream(index);
        CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
    }
    bool is_device_pointer(const void* data) const override {
        cudaPointerAttributes attributes{};
        if (cudaPointerGetAttributes(&attributes, data) == cudaSuccess)
            return attributes.type == cudaMemoryTypeDevice;
        cudaGetLastError();
        return false;
    }

  private:
    /// One for each device, never freed: threads of checkpoints may outlive a run's streams.
    cudaStream_t copy_stream(int index) {
        const std::lock_guard lock(mutex_);
        cudaStream_t& stream = copy_streams_[index];
        if (!stream) CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        return stream;
    }

    int devices_ = 0;
    std::vector<std::unique_ptr<DeviceMemory>> memories_;
    PinnedMemory pinned_;
    std::mutex mutex_;
    std::map<int, cudaStream_t> copy_streams_;
};

class Event final : public DeviceEvent {
  public:
    explicit Event(cudaStream_t stream) {
        CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
        CUDA_CHECK(cudaEventRecord(event_, stream));
    }
    ~Event() override { cudaEventDestroy(event_); }
    bool is_done() override {
        const cudaError_t status = cudaEventQuery(event_);
        if (status == cudaErrorNotReady) {
            cudaGetLastError();  // not an error, and not to be found after the next launch
            return false;
        }
        CUDA_CHECK(status);
        return true;
    }
    cudaEvent_t event() const { return event_; }

  private:
    cudaEvent_t event_ = nullptr;
};

}  // namespace

KernelEntry::KernelEntry(const char* name, void* kernel) {
    const bool is_new = kernel_table().emplace(name, kernel).second;
    CHECK(is_new, "two CUDA kernels of the name {}", name);
}

Queue::Queue(int device, MemorySource& memory, const StreamOptions& options)
    : device_(device),
      options_(options),
      memory_(memory),
      scratch_of_kernels_(memory.holders(), "scratch of kernels") {
    CUDA_CHECK(cudaSetDevice(device));
    CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device));
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    void* fault = nullptr;
    CUDA_CHECK(cudaHostAlloc(&fault, sizeof(Fault), cudaHostAllocMapped));
    fault_ = new (fault) Fault;
    void* writer = nullptr;
    CUDA_CHECK(cudaMalloc(&writer, sizeof(int32_t)));
    fault_->writer = static_cast<int32_t*>(writer);
    CUDA_CHECK(cudaMemset(fault_->writer, 0, sizeof(int32_t)));
}

Queue::~Queue() {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_);
    states_.clear();
    free_scratch();
    for (const Scratch& scratch : scratch_of_graphs_)
        memory_.free(scratch.block, scratch.bytes);
    cudaFree(fault_->writer);
    cudaFreeHost(fault_);
    cudaStreamDestroy(stream_);
}

void* Queue::scratch(size_t bytes) {
    if (bytes > scratch_.bytes) {
        CHECK(!is_capturing_, "captured work needs {} bytes of scratch, and {} are there: {}",
              bytes, scratch_.bytes, "the same work must have run before");
        CUDA_CHECK(cudaStreamSynchronize(stream_));
        if (is_scratch_in_graphs_)
            scratch_of_graphs_.push_back(std::exchange(scratch_, {}));
        else
            free_scratch();
        is_scratch_in_graphs_ = false;
        count_scratch();
        scratch_ = {memory_.take(bytes), bytes};
        count_scratch();
    }
    return scratch_.block;
}

void Queue::free_scratch() {
    const Scratch scratch = std::exchange(scratch_, {});
    if (scratch.block) memory_.free(scratch.block, scratch.bytes);
}

void Queue::count_scratch() {
    size_t bytes = scratch_.bytes;
    for (const Scratch& scratch : scratch_of_graphs_)
        bytes += scratch.bytes;
    scratch_of_kernels_.set(bytes);
}

namespace {

/// A graph would read or write host memory when it is launched, whatever that memory is by then.
void require_device_memory(const void* data) {
    cudaPointerAttributes attributes{};
    CUDA_CHECK(cudaPointerGetAttributes(&attributes, data));
    CHECK(attributes.type == cudaMemoryTypeDevice, "a copy from or to the host in captured work");
}

}  // namespace

std::unique_ptr<Graph> Queue::capture(FunctionRef<void()> work) {
    CUDA_CHECK(cudaSetDevice(device_));
    is_capturing_ = true;
    is_scratch_in_graphs_ = true;
    const struct Capturing {
        bool& is_on;
        ~Capturing() { is_on = false; }
    } until_the_end{is_capturing_};
    return CapturedGraph::capture(stream_, work);
}

void Queue::copy(void* to, const void* from, size_t bytes) {
    if (is_capturing_)
        for (const void* data : {static_cast<const void*>(to), from})
            require_device_memory(data);
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
}

void Queue::set_zero(void* to, size_t bytes) {
    CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, stream_));
}

std::unique_ptr<DeviceEvent> Queue::record() {
    CUDA_CHECK(cudaSetDevice(device_));
    return std::make_unique<Event>(stream_);
}

void Queue::wait(DeviceEvent& event) {
    CUDA_CHECK(cudaStreamWaitEvent(stream_, static_cast<Event&>(event).event(), 0));
}

void Queue::synchronize() {
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    if (fault_->code != Fault::none) throw_fault();
}

void Queue::synchronize(DeviceEvent& event) {
    CUDA_CHECK(cudaEventSynchronize(static_cast<Event&>(event).event()));
    if (fault_->code != Fault::none) throw_fault();
}

void Queue::throw_fault() {
    const Fault fault = *fault_;
    *fault_ = Fault{.writer = fault.writer};
    CUDA_CHECK(cudaMemset(fault.writer, 0, sizeof(int32_t)));
    switch (fault.code) {
        case Fault::token_outside_vocabulary:
            FAIL(data, "token {} at {} has no row in an embedding of {} rows", fault.value,
                 fault.row, fault.limit);
        case Fault::position_without_row:
            FAIL(data, "position {} at {} has no row in a table of {} positions", fault.value,
                 fault.row, fault.limit);
        case Fault::target_outside_vocabulary:
            FAIL(data, "target {} in row {} is outside of a vocabulary of {}", fault.value,
                 fault.row, fault.limit);
        case Fault::cache_is_full:
            FAIL(internal, "a cache of {} tokens cannot take those of sequence {} up to {}",
                 fault.limit, fault.row, fault.value);
        case Fault::sample_without_label:
            FAIL(data, "sample {} of the micro-batch has no label", fault.row);
        case Fault::row_does_not_ascend:
            FAIL(internal, "row {} (number {}) does not ascend within {} rows", fault.value,
                 fault.row, fault.limit);
        default:
            FAIL(internal, "a kernel reported the unknown fault {}", static_cast<int>(fault.code));
    }
}

}  // namespace plinth::kernels::cuda

extern "C" __attribute__((visibility("default"))) plinth::DeviceModule* plinth_device_module() {
    static plinth::kernels::cuda::Module module;
    return &module;
}
