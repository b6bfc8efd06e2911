// SPDX-License-Identifier: Apache-2.0
// Memory of the emulated device, pinned host memory, and copies.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "tests/emulation/machine.h"
#include "tests/emulation/runtime.h"

namespace emulation {

namespace {

const Allocation* allocation_of(const void* data) {
    const auto& all = machine().allocations;
    auto found = all.upper_bound(static_cast<std::byte*>(const_cast<void*>(data)));
    if (found == all.begin()) return nullptr;
    --found;
    return data < found->first + found->second.bytes ? &found->second : nullptr;
}

size_t page_bytes() {
    static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

/// All but the page at its end, which faults for everybody.
void protect(const Allocation& allocation, int rights) {
    mprotect(allocation.mapping, allocation.mapped - page_bytes(), rights);
}

void protect_all(int rights) {
    for (const auto& [start, allocation] : machine().allocations)
        if (allocation.kind == Memory::device) protect(allocation, rights);
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
    const size_t page = page_bytes();
    const size_t rounded = (bytes + 255) / 256 * 256;
    const size_t mapped = (rounded + page - 1) / page * page + page;
    void* mapping =
        mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
    mprotect(static_cast<std::byte*>(mapping) + mapped - page, page, PROT_NONE);
    std::byte* start = static_cast<std::byte*>(mapping) + mapped - page - rounded;
    std::memset(start, 0xFF, bytes);
    if (kind == Memory::device) machine().allocated += bytes;
    const Allocation& made = machine().allocations[start] = {kind, bytes, mapping, mapped};
    if (kind == Memory::device && machine().opened == 0) protect(made, PROT_NONE);
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

}  // namespace

DeviceAccess::DeviceAccess() {
    if (machine().opened++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
    if (--machine().opened == 0) protect_all(PROT_NONE);
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaMalloc(void** block, size_t bytes) {
    if (is_capturing()) return failed(cudaErrorStreamCaptureUnsupported);
    return allocate(block, bytes, Memory::device);
}
cudaError_t cudaFree(void* block) {
    if (is_capturing()) return failed(cudaErrorStreamCaptureUnsupported);
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
    if (is_capturing()) return failed(cudaErrorStreamCaptureUnsupported);
    const std::lock_guard lock(machine().mutex);
    const DeviceAccess access;
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

}  // extern "C"
