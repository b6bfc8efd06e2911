// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/relay.h"

#include "core/autograd/scope.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Tensor;

namespace {
constexpr const char* label = "activation of decoding";
}

Tensor PipelineRelay::features(const core::Batch& batch, const core::nn::InnerAttention& inner) {
    const core::Scope& scope = core::Scope::current();
    const int rank = stages_.rank(), ranks = stages_.size();
    Tensor x;
    for (size_t chunk = 0; chunk < model_.chunks().size(); ++chunk) {
        const core::models::Parts& parts = model_.chunks()[chunk];
        if (!parts.has_embedding) {
            x = scope.empty(model_.input_shape(batch), scope.compute());
            stages_.receive(label, bytes_of(x.out()), (rank + ranks - 1) % ranks);
        }
        x = model_.run(chunk, x, batch, inner);
        if (parts.has_head) return x;
        stages_.send(label, bytes_of(std::as_const(x).in()), (rank + 1) % ranks);
    }
    return {};
}

int32_t PipelineRelay::agree(int32_t token) {
    const Bytes bytes = std::as_writable_bytes(std::span(&token, 1));
    if (stages_.size() > 1) stages_.broadcast("token of the last stage", bytes, stages_.size() - 1);
    if (tensor_.size() > 1) tensor_.broadcast("token of the first rank", bytes, 0);
    return token;
}

}  // namespace plinth::parallel
