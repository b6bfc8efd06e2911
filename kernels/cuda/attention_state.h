// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>

#include "kernels/attention_choice.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// What attention keeps with a queue.
struct AttentionState {
    int capability;
    AttentionCounts counts;

    explicit AttentionState(Queue& queue) : capability(capability_of(queue.device())) {}
};

inline bool begin_at_multiples_of_16(std::initializer_list<const void*> tensors) {
    return std::all_of(tensors.begin(), tensors.end(), [](const void* data) {
        return reinterpret_cast<uintptr_t>(data) % 16 == 0;
    });
}

}  // namespace plinth::kernels::cuda
