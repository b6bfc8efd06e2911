// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/nn/declaration.h"
#include "core/ops/layer_norm.h"
#include "core/ops/rms_norm.h"

namespace plinth::core::nn {

struct NormConfig {
    enum class Kind { layer, rms } kind = Kind::layer;
    double eps = 1e-5;
};

/// Layer norm (Ba et al. 2016) with weight and bias, or RMS norm (Zhang and Sennrich 2019) with
/// weight, over the last dim.
class Norm {
  public:
    Norm(const Declaration& at, int64_t width, const NormConfig& config)
        : config_(config), weight_(at.vector("weight", width, Init::ones())) {
        weight_.add_use();
        if (config.kind == NormConfig::Kind::layer) {
            bias_ = &at.vector("bias", width, Init::zeros());
            bias_->add_use();
        }
    }

    Tensor operator()(const Tensor& x) const {
        return config_.kind == NormConfig::Kind::layer
                   ? ops::layer_norm(x, weight_, bias_, config_.eps)
                   : ops::rms_norm(x, weight_, config_.eps);
    }

    /// In a residual stream: x + branch goes on and gives y. branch may be undefined; then x goes
    /// on, and what its gradients from there and through y come to is made in one pass, too.
    ops::NormedSum of_sum(const Tensor& x, const Tensor& branch = {}) const {
        return config_.kind == NormConfig::Kind::layer
                   ? ops::layer_norm_of_sum(x, branch, weight_, bias_, config_.eps)
                   : ops::rms_norm_of_sum(x, branch, weight_, config_.eps);
    }

  private:
    NormConfig config_;
    Parameter& weight_;
    Parameter* bias_ = nullptr;
};

}  // namespace plinth::core::nn
