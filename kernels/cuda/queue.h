// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/fault.h"
#include "kernels/runtime/stream.h"

namespace plinth::kernels::cuda {

/// One CUDA stream and what its kernels share.
class Queue final : public DeviceQueue {
  public:
    /// `memory` is the device's.
    Queue(int device, MemorySource& memory, const StreamOptions& options);
    ~Queue() override;
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    cudaStream_t stream() const { return stream_; }
    int device() const { return device_; }
    int multiprocessors() const { return multiprocessors_; }
    const StreamOptions& options() const { return options_; }
    /// Where kernels report bad data; see fault.h.
    Fault* fault() const { return fault_; }

    /// Device memory for one kernel call, 256-byte aligned and uninitialised; the next call of
    /// `scratch` may give the same memory, which is safe because the stream is in order. Growing
    /// waits for the stream, and is an error while a graph is captured. Memory that a graph has
    /// seen stays with the queue.
    void* scratch(size_t bytes);

    /// State of a library that belongs to this queue (handles, plans), made by the first call.
    template <typename T>
    T& state() {
        std::shared_ptr<void>& state = states_[std::type_index(typeid(T))];
        if (!state) state = std::make_shared<T>(*this);
        return *static_cast<T*>(state.get());
    }

    void copy(void* to, const void* from, size_t bytes) override;
    void set_zero(void* to, size_t bytes) override;
    void synchronize() override;
    void synchronize(DeviceEvent& event) override;
    std::unique_ptr<DeviceEvent> record() override;
    void wait(DeviceEvent& event) override;
    std::unique_ptr<Graph> capture(FunctionRef<void()> work) override;
    void* handle() override { return stream_; }

  private:
    struct Scratch {
        void* block = nullptr;
        size_t bytes = 0;
    };
    void throw_fault();
    void free_scratch();
    void count_scratch();

    int device_;
    StreamOptions options_;
    MemorySource& memory_;
    int multiprocessors_ = 0;
    cudaStream_t stream_ = nullptr;
    Fault* fault_ = nullptr;
    Scratch scratch_;
    bool is_capturing_ = false, is_scratch_in_graphs_ = false;
    std::vector<Scratch> scratch_of_graphs_;  ///< that was too small for what came later
    NamedMemory scratch_of_kernels_;
    std::unordered_map<std::type_index, std::shared_ptr<void>> states_;
};

inline Queue& queue_of(Stream& stream) {
    return static_cast<Queue&>(stream.queue());
}

/// Enters a kernel into the module's table; see PLINTH_CUDA_KERNEL.
struct KernelEntry {
    KernelEntry(const char* name, void* kernel);
};

}  // namespace plinth::kernels::cuda

/// At the end of a .cu file, in namespace plinth::kernels::cuda, for each kernel that it defines:
/// its parameters must be those of PLINTH_KERNEL(NAME, ...).
#define PLINTH_CUDA_KERNEL(NAME)                                                \
    static_assert(std::is_same_v<decltype(&cuda::NAME), decltype(&cpu::NAME)>); \
    static const KernelEntry entry_of_##NAME(#NAME, reinterpret_cast<void*>(&cuda::NAME))
