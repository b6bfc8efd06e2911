// SPDX-License-Identifier: Apache-2.0
#include "core/ops/attention.h"

#include "core/autograd/scope.h"

namespace plinth::core::ops {

namespace {

kernels::AttentionMask mask_of(const AttentionInputs& inputs) {
    return {inputs.slopes.in(), inputs.documents.in(), inputs.samples.in()};
}

void attention_input_grad(NodeGradients& gradients, const Tensor& qkv, const Tensor& y,
                          const Tensor& log_sum, const AttentionInputs& inputs,
                          const kernels::Attention& options) {
    if (!gradients.wants_input(0)) return;
    Scope& scope = Scope::current();
    Tensor dqkv = scope.empty(qkv.shape(), qkv.dtype());
    kernels::attention_backward(dqkv.out(), gradients.of_output(0).in(), y.in(), log_sum.in(),
                                qkv.in(), mask_of(inputs), options, scope.stream());
    gradients.set_input(0, std::move(dqkv));
}

}  // namespace

Tensor attention(const Tensor& qkv, kernels::Attention options, const AttentionInputs& inputs,
                 std::string_view name) {
    Scope& scope = Scope::current();
    const int64_t columns = options.heads + 2 * options.kv_heads;
    CHECK(qkv.shape().rank() == 3 && columns > 0 && qkv.dim(2) % columns == 0,
          "attention: qkv {} does not hold {} query and twice {} key/value heads",
          qkv.shape().text(), options.heads, options.kv_heads);
    if (!scope.training()) options.dropout = 0.0f;
    if (options.dropout > 0.0f) options.random = scope.random_key(name);
    const int64_t b = qkv.dim(0), t = qkv.dim(1);
    Tensor y = scope.empty({b, t, qkv.dim(2) / columns * options.heads}, qkv.dtype());
    Tensor log_sum = scope.empty({b, options.heads, t}, DType::f32);
    kernels::attention_forward(y.out(), log_sum.out(), qkv.in(), mask_of(inputs), options,
                               scope.stream());
    if (scope.tape())
        scope.tape()->record("attention", {&qkv}, {&y},
                             [=, qkv = SavedTensor(qkv), y = SavedTensor(y),
                              log_sum = SavedTensor(log_sum)](NodeGradients& gradients) {
                                 attention_input_grad(gradients, qkv.get("attention"),
                                                      y.get("attention"), log_sum.get("attention"),
                                                      inputs, options);
                             });
    return y;
}

Tensor attention_cached(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                        const kernels::Attention& options, const Tensor& slopes) {
    Scope& scope = Scope::current();
    CHECK(q.shape().rank() == 3 && k.shape().rank() == 3 && options.kv_heads > 0 &&
              k.dim(2) % options.kv_heads == 0,
          "attention_cached: keys {} do not hold {} heads", k.shape().text(), options.kv_heads);
    const int64_t width = k.dim(2) / options.kv_heads;
    Tensor y = scope.empty({q.dim(0), q.dim(1), options.heads * width}, q.dtype());
    kernels::attention_cached(y.out(), q.in(), k.in(), v.in(), starts.in(), slopes.in(), options,
                              scope.stream());
    return y;
}

}  // namespace plinth::core::ops
