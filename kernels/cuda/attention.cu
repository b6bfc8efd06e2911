// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include "kernels/cuda/attention_kernels.h"

namespace plinth::kernels::cuda {

void attention_forward(View y, View log_sum, ConstView qkv, AttentionMask mask, Attention options,
                       Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    tiled_attention_forward(y, log_sum, qkv, shape, mask, options, queue_of(stream));
}

void attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum, ConstView qkv,
                        AttentionMask mask, Attention options, Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    CHECK(dqkv.shape == qkv.shape && dy.shape == y.shape && dqkv.dtype == qkv.dtype &&
              dy.dtype == qkv.dtype && dqkv.is_contiguous() && dy.is_contiguous(),
          "attention_backward: dqkv {} from dy {}", dqkv.shape.text(), dy.shape.text());
    tiled_attention_backward(dqkv, dy, y, log_sum, qkv, shape, mask, options, queue_of(stream));
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

}  // namespace plinth::kernels::cuda
