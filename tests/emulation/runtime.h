// SPDX-License-Identifier: Apache-2.0
// Streams of the emulated device, which run late: nothing that is enqueued runs before somebody
// waits for it, so that work which does not wait for what it needs finds old memory.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace emulation {

/// As a launch: what is wrong with the extents is the error that cudaGetLastError gives.
void enqueue_kernel(dim3 blocks, dim3 threads, size_t shared_bytes, cudaStream_t stream,
                    std::function<void()> body);
/// Any other work.
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

}  // namespace emulation
