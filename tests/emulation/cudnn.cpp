// SPDX-License-Identifier: Apache-2.0
// The emulated device has no cuDNN: attention that it would serve is computed by the own kernels,
// as on a card where cuDNN has no plan.
#include <cudnn.h>

#include "kernels/cuda/attention_cudnn.h"

extern "C" size_t cudnnGetVersion() {
    return CUDNN_VERSION;
}

namespace plinth::kernels::cuda {

namespace {

const std::string refusal = "the emulated device has no cuDNN";

}  // namespace

int capability_of(int) {
    return 90;
}

const std::string& cudnn_attention_forward(View, View, ConstView, const AttentionShape&,
                                           const Attention&, Queue&) {
    return refusal;
}

const std::string& cudnn_attention_backward(View, ConstView, ConstView, ConstView, ConstView,
                                            const AttentionShape&, const Attention&, Queue&) {
    return refusal;
}

}  // namespace plinth::kernels::cuda
