// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/nn/declaration.h"
#include "core/ops/add.h"
#include "core/ops/gelu_mlp.h"

namespace plinth::core::nn {

/// y[..., out] = x[..., in] weight[out, in]^T (+ bias[out]). Where ranks share the weight, x and y
/// are what the layers around it hold: the batch's slice of tokens.
class Linear {
  public:
    Linear(const Declaration& at, int64_t in, int64_t out, bool bias, double init_stddev,
           int64_t row_multiple = 1)
        : weight_(at.weight({out, in}, Init::normal(init_stddev), row_multiple)),
          use_(weight_.add_use()),
          bias_(bias ? &at.vector("bias", out, Init::zeros()) : nullptr),
          ends_(at.ends()) {
        if (bias_) bias_->add_use();
    }
    /// Its products may be of 8-bit floats: the linear layers of a block, but no head.
    void may_take_fp8() { weight_.set_takes_fp8(); }
    /// A second use, at `at`, of a weight declared elsewhere: a tied head.
    Linear(const Declaration& at, Parameter& tied)
        : weight_(tied), use_(tied.add_use()), ends_(at.ends()) {}

    /// For an op that multiplies by itself; there must be no bias.
    ops::WeightUse weight() const {
        CHECK(bias_ == nullptr, "{}: has a bias", weight_.name());
        return {weight_, use_};
    }
    /// Output features of this rank, and the global number of the first.
    int64_t features() const { return weight_.local_shape()[0]; }
    int64_t first_feature() const { return weight_.boxes()[0].offset[0]; }

    Tensor operator()(const Tensor& x, const TokenSlice& tokens = {}) const {
        const ops::LinearUse use = product();
        return leave(ops::linear(enter(x, tokens), use.weight, use.bias), tokens);
    }
    /// The product between `enter` and `leave`, for an op that has it in it.
    ops::LinearUse product() const { return {{weight_, use_}, adds_bias_last() ? nullptr : bias_}; }
    /// True where `enter` gives x itself, or `leave` y.
    bool enters_as_is() const { return !ends_ || ends_->enters_as_is(); }
    bool leaves_as_is() const { return !ends_ || (ends_->leaves_as_is() && !adds_bias_last()); }
    /// What the weight multiplies, for a caller that does so by itself.
    Tensor enter(const Tensor& x, const TokenSlice& tokens) const {
        return ends_ ? ends_->enter(x, tokens) : x;
    }
    /// From the product to what the layer behind expects.
    Tensor leave(const Tensor& y, const TokenSlice& tokens) const {
        if (!ends_) return y;
        const Tensor left = ends_->leave(y, tokens);
        return adds_bias_last() ? ops::add_bias(left, *bias_) : left;
    }
    /// Of a head: the ranks that hold its columns together; null for one.
    const ops::ColumnRanks* columns() const { return ends_ ? ends_->columns() : nullptr; }

  private:
    /// A whole bias beside a cut weight belongs to the sum of the ranks' products, once.
    bool adds_bias_last() const { return ends_ && bias_ && bias_->is_whole(); }

    Parameter& weight_;
    int use_;
    Parameter* bias_ = nullptr;
    std::shared_ptr<const Ends> ends_;
};

}  // namespace plinth::core::nn
