// SPDX-License-Identifier: Apache-2.0
// The seam between the house and a device backend, which is a shared module loaded on demand
// (libplinth_cuda.so): a program on a machine without a device neither needs nor pays for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/function_ref.h"
#include "kernels/runtime/graph.h"

namespace plinth {

struct StreamOptions {
    /// Every kernel has one result for one input: no atomics on floats, no split sums.
    bool reproducible = false;
    /// fp32 products on the matrix units with 10-bit mantissas (TF32).
    bool tf32 = false;
};

/// A place in the work of a queue.
class DeviceEvent {
  public:
    virtual ~DeviceEvent() = default;
    /// True once all work before it is done.
    virtual bool is_done() = 0;
};

/// The device half of a Stream. Work is done in the order in which it is given; calls return before
/// it is done.
class DeviceQueue {
  public:
    virtual ~DeviceQueue() = default;
    /// Between host and device, either way, or within the device. Pinned host memory must stay as
    /// it is until `synchronize`; pageable memory has been read when the call returns, and is
    /// written before it returns.
    virtual void copy(void* to, const void* from, size_t bytes) = 0;
    virtual void set_zero(void* to, size_t bytes) = 0;
    /// Waits until all work is done. Throws what a kernel found wrong with its data, or the
    /// device's error.
    virtual void synchronize() = 0;
    /// Waits until the work before that place, one of this queue, is done. Throws the same, of any
    /// work that is done by then.
    virtual void synchronize(DeviceEvent& event) = 0;
    /// The place after all work so far.
    virtual std::unique_ptr<DeviceEvent> record() = 0;
    /// Later work here comes after that place, which may be another queue's of the same device.
    virtual void wait(DeviceEvent& event) = 0;
    /// The work that `work` gives to the queue, of which nothing is done. Whatever waits for the
    /// queue, copies from or to the host, or takes memory from the system is an error, which goes
    /// on. The queue must outlive the graph.
    virtual std::unique_ptr<Graph> capture(FunctionRef<void()> work) = 0;
    /// What libraries of the device call a stream.
    virtual void* handle() = 0;

    /// Called before each wait of the host for this queue, also one within a kernel's call, with
    /// the place that is waited for, null for all work: it may wait in its own way for what the
    /// queue waits for before that place, and say what is wrong. Empty: nothing.
    using BeforeWaiting = std::function<void(DeviceEvent* place)>;
    void set_before_waiting(BeforeWaiting before) { before_waiting_ = std::move(before); }
    /// By whoever is about to wait.
    void before_waiting(DeviceEvent* place = nullptr) {
        if (before_waiting_) before_waiting_(place);
    }

  private:
    BeforeWaiting before_waiting_;
};

struct DeviceInfo {
    std::string name;
    int capability = 0;  ///< 90 for compute capability 9.0
    int multiprocessors = 0;
    size_t memory_bytes = 0;
    std::string versions;  ///< of driver and libraries, for logs and manifests
    std::string identity;  ///< the same for the same device, in any process
};

/// What a backend module offers.
class DeviceModule {
  public:
    virtual ~DeviceModule() = default;
    virtual int devices() const = 0;
    virtual DeviceInfo info(int index) const = 0;
    virtual MemorySource& memory(int index) = 0;
    /// Host memory that copies reach at full speed and without waiting. It counts as host memory.
    virtual MemorySource& pinned_memory() = 0;
    virtual std::unique_ptr<DeviceQueue> queue(int index, const StreamOptions& options) = 0;
    /// By the name in PLINTH_KERNEL; null if the module has none.
    virtual void* kernel(const char* name) const = 0;
    /// Blocking copy between host memory and that device, beside all queues: what it reads must
    /// have been waited for. From any thread.
    virtual void copy(int index, void* to, const void* from, size_t bytes) = 0;
    virtual bool is_device_pointer(const void* data) const = 0;
};

/// The CUDA module, loaded by the first call. Throws an error of kind config that says what is
/// missing: the module, a library of it, the driver or a device.
DeviceModule& cuda_module();
/// True if the module loads and finds a device. Looks for the driver first: a machine without one
/// does not pay for loading the module.
bool has_cuda_device();
/// True if the machine has an NVIDIA driver.
bool has_cuda_driver();
/// Why `has_cuda_device` is false; empty if it is true.
const std::string& no_cuda_device_reason();

/// Opens a module beside the program, or where its run path leads. Null, and why, if there is none.
void* open_backend_module(const std::string& file, std::string& reason);

/// Blocking copy of bytes that lie on any devices; see DeviceModule::copy.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, size_t bytes);

}  // namespace plinth
