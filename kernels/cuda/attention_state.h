// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>

#include "kernels/attention_choice.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// What attention keeps with a queue.
struct AttentionState {
    int capability;
    int64_t shared_bytes;  ///< that a block may have of the card where it asks for it
    std::string card;
    AttentionCounts counts;

    explicit AttentionState(Queue& queue) : capability(capability_of(queue.device())) {
        cudaDeviceProp properties{};
        CUDA_CHECK(cudaGetDeviceProperties(&properties, queue.device()));
        shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
        card = properties.name;
    }
};

inline bool begin_at_multiples_of_16(std::initializer_list<const void*> tensors) {
    return std::all_of(tensors.begin(), tensors.end(), [](const void* data) {
        return reinterpret_cast<uintptr_t>(data) % 16 == 0;
    });
}

}  // namespace plinth::kernels::cuda
