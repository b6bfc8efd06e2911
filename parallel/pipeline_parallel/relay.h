// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/inference/decoder.h"
#include "core/models/transformer.h"
#include "parallel/comm/groups.h"

namespace plinth::parallel {

/// Decoding by the ranks that hold one copy of the model together. One forward pass at a time goes
/// from stage to stage of the pipeline, and the last one tells the others which token it has
/// chosen. Of a tensor group the first rank's word counts: all choose by the same logits, but on
/// machines of two kinds their bits may differ.
class PipelineRelay final : public core::inference::Relay {
  public:
    /// Model and groups must outlive it.
    PipelineRelay(const core::models::Transformer& model, const Groups& groups)
        : model_(model),
          stages_(groups.along(Axis::pipeline)),
          tensor_(groups.along(Axis::tensor)) {}

    core::Tensor features(const core::Batch& batch, const core::nn::InnerAttention& inner) override;
    int32_t agree(int32_t token) override;

  private:
    const core::models::Transformer& model_;
    Communicator& stages_;
    Communicator& tensor_;
};

}  // namespace plinth::parallel
