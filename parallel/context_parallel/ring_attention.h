// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/nn/attention.h"
#include "core/nn/layout.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Attention of sequences that a context group shares by zigzag_part (Liu et al., "Ring Attention
/// with Blockwise Transformers", 2023; the balanced cut of Brandon et al., "Striped Attention",
/// 2023, with two runs a rank). Keys and values go round the ring, and each rank's queries meet
/// those at hand while the next ones come. In the backward pass they go round again, and behind
/// them the sums of their gradients, which come home after the last step; a rank's own share is
/// added there. A batch of whole sequences gets full attention.
///
/// Collective over the group, forwards and backwards. Sums are fp32, in the order of the ring.
class RingAttention final : public core::nn::InnerAttention {
  public:
    /// The group must outlive it.
    explicit RingAttention(Communicator& group) : group_(group) {}

    core::Tensor attend(const core::nn::InnerAttentionCall& call, const core::Tensor& qkv,
                        const core::Batch& batch) const override;

  private:
    Communicator& group_;
};

/// A layout whose sequences are shared by a context group, and all else as `base` says.
class ContextLayout final : public core::nn::Layout {
  public:
    /// Both must outlive it; the group also the models that are declared with it.
    ContextLayout(const core::nn::Layout& base, Communicator& group) : base_(base), group_(group) {}

    void place(core::Parameter& parameter, const std::string& path) const override {
        base_.place(parameter, path);
    }
    std::shared_ptr<const core::nn::Ends> ends(const std::string& path) const override {
        return base_.ends(path);
    }
    std::shared_ptr<const core::nn::InnerAttention> attention() const override {
        if (group_.size() == 1) return base_.attention();
        return std::make_shared<RingAttention>(group_);
    }

  private:
    const core::nn::Layout& base_;
    Communicator& group_;
};

}  // namespace plinth::parallel
