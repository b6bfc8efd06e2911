// SPDX-License-Identifier: Apache-2.0
#include "core/nn/attention.h"

#include "core/autograd/scope.h"
#include "core/ops/qk_norm.h"

namespace plinth::core::nn {

const InnerAttention& full_attention() {
    static const FullAttention full;
    return full;
}

const Tensor& AlibiSlopes::get() const {
    if (heads_ == 0 || uploaded_.defined()) return uploaded_;
    const Scope& scope = Scope::current();
    CHECK(!scope.stream().is_capturing(), "slopes of {} heads that captured work would upload",
          heads_);
    const std::vector<float> all = kernels::alibi_slopes(all_);
    const auto first = all.begin() + first_;
    uploaded_ = Tensor::of(std::vector<float>(first, first + heads_), {heads_}, scope.weights(),
                           scope.stream());
    return uploaded_;
}

Tensor FullAttention::attend(const InnerAttentionCall& call, const Tensor& qkv,
                             const Batch& batch) const {
    return ops::attention(
        qkv, call.options,
        {.slopes = call.slopes.get(), .documents = batch.document_ids, .samples = batch.sample_ids},
        call.dropout_name);
}

SelfAttention::SelfAttention(const Declaration& at, int64_t layer, const AttentionConfig& config)
    : config_(config),
      call_{.layer = layer,
            .options = {.heads = config.heads,
                        .kv_heads = config.kv_heads,
                        .causal = config.causal,
                        .window = config.window,
                        .dropout = static_cast<float>(config.dropout)},
            .dropout_name = fmt::format("blocks.{}.attention.weights", layer)},
      qkv_(at / "qkv", config.width, config.qkv_width(), config.qkv_bias, config.init_stddev),
      output_(at / "output", config.heads * config.head_width, config.width, config.output_bias,
              config.output_init_stddev) {
    qkv_.may_take_fp8();
    output_.may_take_fp8();
    const int64_t shares = config.qkv_width() / qkv_.features();
    CHECK(config.heads % shares == 0 && config.kv_heads % shares == 0 &&
              qkv_.features() * shares == config.qkv_width(),
          "attention of layer {}: {} of {} features are no share of the heads", layer,
          qkv_.features(), config.qkv_width());
    call_.options.heads = config.heads / shares;
    call_.options.kv_heads = config.kv_heads / shares;
    call_.options.first_head = qkv_.first_feature() / config.head_width;
    if (config.alibi) call_.slopes = {config.heads, call_.options.first_head, call_.options.heads};
    if (config_.rotary) {
        config_.rotary->heads = call_.options.heads;
        config_.rotary->kv_heads = call_.options.kv_heads;
    }
    if (!config.qk_norm) return;
    q_norm_ = &(at / "q_norm").vector("weight", config.head_width, Init::ones());
    k_norm_ = &(at / "k_norm").vector("weight", config.head_width, Init::ones());
    q_norm_->add_use();
    k_norm_->add_use();
}

Tensor SelfAttention::operator()(const Tensor& x, const Batch& batch,
                                 const InnerAttention& inner) const {
    Tensor qkv = qkv_(x, batch.slice);
    if (q_norm_)
        qkv = ops::qk_norm(qkv, *q_norm_, *k_norm_,
                           {.heads = call_.options.heads,
                            .kv_heads = call_.options.kv_heads,
                            .eps = config_.norm_eps});
    if (config_.rotary) qkv = ops::rotary(qkv, batch.positions, *config_.rotary);
    return output_(inner.attend(call_, qkv, batch), batch.slice);
}

}  // namespace plinth::core::nn
