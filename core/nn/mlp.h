// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/autograd/recompute.h"
#include "core/autograd/scope.h"
#include "core/nn/linear.h"
#include "core/ops/gelu.h"
#include "core/ops/swiglu.h"

namespace plinth::core::nn {

struct MlpConfig {
    enum class Activation { gelu_tanh, gelu_erf, swiglu } activation = Activation::gelu_tanh;
    int64_t width = 0;
    int64_t ffn_width = 0;
    bool bias = true;
    double init_stddev = 0.02;
    double output_init_stddev = 0.02;
};

/// down(gelu(up x)), or down(silu(gate x) * up x) with gate and up in one product (Shazeer 2020).
class Mlp {
  public:
    Mlp(const Declaration& at, const MlpConfig& config)
        : activation_(config.activation),
          up_(is_gated() ? at / "gate_up" : at / "up", config.width,
              is_gated() ? 2 * config.ffn_width : config.ffn_width, config.bias,
              config.init_stddev),
          down_(at / "down", config.ffn_width, config.width, config.bias,
                config.output_init_stddev) {
        up_.may_take_fp8();
        down_.may_take_fp8();
    }

    Tensor operator()(const Tensor& x, const TokenSlice& tokens = {}) const {
        if (is_gated()) return down_(ops::swiglu(before_activation(x, tokens)), tokens);
        const bool exact = activation_ == MlpConfig::Activation::gelu_erf;
        const auto form = exact ? kernels::Gelu::erf : kernels::Gelu::tanh;
        if (!up_.leaves_as_is() || !down_.enters_as_is())
            return down_(ops::gelu(before_activation(x, tokens), form), tokens);
        const Tensor y = ops::gelu_mlp(up_.enter(x, tokens), up_.product(), down_.product(), form);
        return down_.leave(y, tokens);
    }

  private:
    /// With a recipe where the scope remakes hidden layers.
    Tensor before_activation(const Tensor& x, const TokenSlice& tokens) const {
        Tensor y = up_(x, tokens);
        if (Scope::current().remakes_hidden())
            remake_once(y,
                        [this, x = SavedTensor(x), tokens] { return up_(x.get("mlp"), tokens); });
        return y;
    }
    bool is_gated() const { return activation_ == MlpConfig::Activation::swiglu; }

    MlpConfig::Activation activation_;
    Linear up_;
    Linear down_;
};

}  // namespace plinth::core::nn
