// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/nn/declaration.h"
#include "core/ops/matmul.h"

namespace plinth::core::nn {

/// y[..., out] = x[..., in] weight[out, in]^T (+ bias[out]).
class Linear {
  public:
    Linear(const Declaration& at, int64_t in, int64_t out, bool bias, double init_stddev)
        : weight_(at.weight({out, in}, Init::normal(init_stddev))),
          use_(weight_.add_use()),
          bias_(bias ? &at.vector("bias", out, Init::zeros()) : nullptr) {
        if (bias_) bias_->add_use();
    }
    /// A second use of a weight declared elsewhere: a tied head.
    explicit Linear(Parameter& tied) : weight_(tied), use_(tied.add_use()) {}

    /// For an op that multiplies by itself; there must be no bias.
    ops::WeightUse weight() const {
        CHECK(bias_ == nullptr, "{}: has a bias", weight_.name());
        return {weight_, use_};
    }

    Tensor operator()(const Tensor& x) const { return ops::linear(x, {weight_, use_}, bias_); }

  private:
    Parameter& weight_;
    int use_;
    Parameter* bias_ = nullptr;
};

}  // namespace plinth::core::nn
