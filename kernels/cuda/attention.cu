// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include "kernels/cuda/attention_state.h"
#include "kernels/cuda/attention_tensor_core.h"
#include "kernels/cuda/attention_tiled.h"

namespace plinth::kernels::cuda {

namespace {

/// A call of whole sequences, and who may serve it.
struct Choice {
    AttentionImplementation first, own;

    Choice(const AttentionShape& shape, DType dtype, const AttentionMask& mask,
           const Attention& options, std::initializer_list<const void*> tensors, int capability) {
        const bool is_aligned = begin_at_multiples_of_16(tensors);
        first = choose_attention(shape, dtype, mask, options, is_aligned, capability);
        own = choose_own_attention(shape, dtype, is_aligned, capability);
    }
};

/// Runs the implementation that is chosen, or the own one that fits where cuDNN has no plan.
template <typename Cudnn, typename TensorCore, typename Tiled>
void serve(const Choice& choice, AttentionCounts& counts, Cudnn&& cudnn, TensorCore&& tensor_core,
           Tiled&& tiled) {
    if (choice.first == AttentionImplementation::cudnn) {
        const std::string& refusal = cudnn();
        if (refusal.empty()) {
            ++counts.cudnn;
            return;
        }
        ++counts.refused;
        counts.refusal = refusal;
    }
    if (choice.own == AttentionImplementation::tensor_core) {
        ++counts.tensor_core;
        return tensor_core();
    }
    ++counts.tiled;
    tiled();
}

/// Of the stream, for tests.
AttentionCounts attention_counts(Stream& stream) {
    return queue_of(stream).state<AttentionState>().counts;
}

}  // namespace

void attention_forward(View y, View log_sum, ConstView qkv, AttentionMask mask, Attention options,
                       Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    Queue& queue = queue_of(stream);
    auto& state = queue.state<AttentionState>();
    serve(
        Choice(shape, qkv.dtype, mask, options, {y.data, log_sum.data, qkv.data}, state.capability),
        state.counts,
        [&]() -> const std::string& {
            return cudnn_attention_forward(y, log_sum, qkv, shape, options, queue);
        },
        [&] { tensor_core_attention_forward(y, log_sum, qkv, shape, mask, options, queue); },
        [&] { tiled_attention_forward(y, log_sum, qkv, shape, mask, options, queue); });
}

void attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum, ConstView qkv,
                        AttentionMask mask, Attention options, Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    CHECK(dqkv.shape == qkv.shape && dy.shape == y.shape && dqkv.dtype == qkv.dtype &&
              dy.dtype == qkv.dtype && dqkv.is_contiguous() && dy.is_contiguous(),
          "attention_backward: dqkv {} from dy {}", dqkv.shape.text(), dy.shape.text());
    Queue& queue = queue_of(stream);
    auto& state = queue.state<AttentionState>();
    serve(
        Choice(shape, qkv.dtype, mask, options,
               {dqkv.data, dy.data, y.data, log_sum.data, qkv.data}, state.capability),
        state.counts,
        [&]() -> const std::string& {
            return cudnn_attention_backward(dqkv, dy, y, log_sum, qkv, shape, options, queue);
        },
        [&] {
            tensor_core_attention_backward(dqkv, dy, y, log_sum, qkv, shape, mask, options, queue);
        },
        [&] { tiled_attention_backward(dqkv, dy, y, log_sum, qkv, shape, mask, options, queue); });
}

void attention_cached(View y, ConstView q, ConstView k, ConstView v, ConstView starts,
                      ConstView slopes, Attention options, Stream& stream) {
    options.causal = true;
    options.dropout = 0.0f;
    const AttentionShape shape = AttentionShape::of_heads(y, options);
    CHECK(q.shape.rank() == 3 && k.shape.rank() == 3 && k.shape == v.shape &&
              q.dim(0) == shape.batch && q.dim(1) == shape.tokens && q.dim(2) >= y.dim(2) &&
              k.dim(0) == shape.batch && k.dim(2) == shape.kv_heads * shape.width &&
              starts.elements() == shape.batch,
          "attention_cached: q {}, k {}, v {} and starts {} do not fit y {}", q.shape.text(),
          k.shape.text(), v.shape.text(), starts.shape.text(), y.shape.text());
    CHECK(k.strides == v.strides, "attention_cached: keys {} and values {} lie in other ways",
          k.shape.text(), v.shape.text());
    tiled_attention_cached(y, q, k, v, starts, slopes, shape, options, queue_of(stream));
}

PLINTH_CUDA_KERNEL(attention_forward);
PLINTH_CUDA_KERNEL(attention_backward);
PLINTH_CUDA_KERNEL(attention_cached);
static const KernelEntry entry_of_attention_counts("attention_counts",
                                                   reinterpret_cast<void*>(&attention_counts));

}  // namespace plinth::kernels::cuda
