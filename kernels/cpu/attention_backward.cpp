// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"
#include "kernels/cpu/attention_gradients.h"
#include "kernels/cpu/elementwise.h"

namespace plinth::kernels::cpu {

void attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum, ConstView qkv,
                        AttentionMask mask, Attention options, Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    CHECK(dqkv.shape == qkv.shape && dy.shape == y.shape && dqkv.dtype == qkv.dtype &&
              dy.dtype == qkv.dtype && dqkv.is_contiguous() && dy.is_contiguous(),
          "attention_backward: dqkv {} from dy {}", dqkv.shape.text(), dy.shape.text());
    with_float_type(qkv.dtype, "attention_backward", [&]<typename T>(T) {
        const int64_t k_head = shape.heads, v_head = shape.heads + shape.kv_heads;
        const ConstView log_sums(log_sum.data, DType::f32,
                                 {shape.batch, shape.heads, shape.tokens});
        const auto gradient = [&](int64_t first) {
            return TokenHeads<T>::of(dqkv, shape.width, first);
        };
        const auto heads = [&](ConstView view, int64_t first) {
            return TokenHeads<const T>::of(view, shape.width, first);
        };
        AttentionGradients<T, false>{.dq = gradient(0),
                                     .dk = gradient(k_head),
                                     .dv = gradient(v_head),
                                     .dy = heads(dy, 0),
                                     .y = heads(y, 0),
                                     .log_sum = log_sums,
                                     .q = heads(qkv, 0),
                                     .k = heads(qkv, k_head),
                                     .v = heads(qkv, v_head),
                                     .shape = shape,
                                     .keys = shape.tokens,
                                     .part = {.tokens = shape.tokens},
                                     .mask = mask,
                                     .options = options}
            .run(stream);
    });
}

}  // namespace plinth::kernels::cpu
