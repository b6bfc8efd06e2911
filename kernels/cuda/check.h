// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/runtime/error.h"

/// Every CUDA runtime call: a failure is an error of kind io that names the call.
#define CUDA_CHECK(call)                                                     \
    do {                                                                     \
        const cudaError_t cuda_status = (call);                              \
        if (cuda_status != cudaSuccess) [[unlikely]]                         \
            FAIL(io, "CUDA: {} ({}) in {}", cudaGetErrorString(cuda_status), \
                 cudaGetErrorName(cuda_status), #call);                      \
    } while (false)

/// After every launch.
#define CUDA_CHECK_LAUNCH(kernel_name)                                                     \
    do {                                                                                   \
        const cudaError_t cuda_status = cudaGetLastError();                                \
        if (cuda_status != cudaSuccess) [[unlikely]]                                       \
            FAIL(io, "CUDA: {} ({}) at the launch of {}", cudaGetErrorString(cuda_status), \
                 cudaGetErrorName(cuda_status), kernel_name);                              \
    } while (false)
