// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "parallel/comm/communicator.h"
#include "parallel/tensor_parallel/planned_layout.h"

namespace plinth::parallel {

/// The layout of a tensor group with sequence parallel: products cut by columns and rows, table and
/// head by ids, and between them every rank works on its slice of the tokens.
///
/// | before and after a | batch with a slice (training)          | batch of whole sequences |
/// |--------------------|----------------------------------------|--------------------------|
/// | column product     | gather tokens                          | nothing                  |
/// | row product, table | sum over the ranks, scattered by token | sum over the ranks       |
/// | head               | gather tokens; loss combined by row    | logits gathered          |
///
/// A batch of whole sequences (a token at a time in decoding, a length that the ranks do not
/// divide) is for running without a tape only: norms would see their gradients once a rank.
class TensorLayout final : public PlannedLayout {
  public:
    /// The group must outlive the models that are declared with it.
    TensorLayout(core::nn::Plan plan, Communicator& group);

    std::shared_ptr<const core::nn::Ends> ends(const std::string& path) const override;

  private:
    Communicator& group_;
};

/// This rank's slice of sequences of `length` tokens; whole ones where the ranks do not divide it.
core::TokenSlice tokens_of_rank(int64_t length, const Communicator& group);

}  // namespace plinth::parallel
