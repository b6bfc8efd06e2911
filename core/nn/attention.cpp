// SPDX-License-Identifier: Apache-2.0
#include "core/nn/attention.h"

#include "core/autograd/scope.h"
#include "core/ops/qk_norm.h"

namespace plinth::core::nn {

const InnerAttention& full_attention() {
    static const FullAttention full;
    return full;
}

Tensor slopes_of(const InnerAttentionCall& call) {
    if (!call.alibi) return {};
    return Tensor::of(kernels::alibi_slopes(call.options.heads), {call.options.heads},
                      Scope::current().allocator());
}

Tensor FullAttention::attend(const InnerAttentionCall& call, const Tensor& qkv,
                             const Batch& batch) const {
    return ops::attention(
        qkv, call.options,
        {.slopes = slopes_of(call), .documents = batch.document_ids, .samples = batch.sample_ids},
        call.dropout_name);
}

SelfAttention::SelfAttention(const Declaration& at, int64_t layer, const AttentionConfig& config)
    : config_(config),
      call_{.layer = layer,
            .options = {.heads = config.heads,
                        .kv_heads = config.kv_heads,
                        .causal = config.causal,
                        .dropout = static_cast<float>(config.dropout)},
            .alibi = config.alibi,
            .dropout_name = fmt::format("blocks.{}.attention.weights", layer)},
      qkv_(at / "qkv", config.width, config.qkv_width(), config.qkv_bias, config.init_stddev),
      output_(at / "output", config.heads * config.head_width, config.width, config.output_bias,
              config.output_init_stddev) {
    if (!config.qk_norm) return;
    q_norm_ = &(at / "q_norm").vector("weight", config.head_width, Init::ones());
    k_norm_ = &(at / "k_norm").vector("weight", config.head_width, Init::ones());
    q_norm_->add_use();
    k_norm_->add_use();
}

Tensor SelfAttention::operator()(const Tensor& x, const Batch& batch,
                                 const InnerAttention& inner) const {
    Tensor qkv = qkv_(x);
    if (q_norm_)
        qkv = ops::qk_norm(
            qkv, *q_norm_, *k_norm_,
            {.heads = config_.heads, .kv_heads = config_.kv_heads, .eps = config_.norm_eps});
    if (config_.rotary) qkv = ops::rotary(qkv, batch.positions, *config_.rotary);
    return output_(inner.attend(call_, qkv, batch));
}

}  // namespace plinth::core::nn
