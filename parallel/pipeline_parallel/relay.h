// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/inference/decoder.h"
#include "core/models/transformer.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Decoding through the stages of a pipeline: one forward pass at a time goes from stage to stage,
/// and the last one tells the others which token it has chosen.
class PipelineRelay final : public core::inference::Relay {
  public:
    /// The group's ranks are the stages. Model and group must outlive it.
    PipelineRelay(const core::models::Transformer& model, Communicator& stages)
        : model_(model), stages_(stages) {}

    core::Tensor features(const core::Batch& batch, const core::nn::InnerAttention& inner) override;
    int32_t agree(int32_t token) override;

  private:
    const core::models::Transformer& model_;
    Communicator& stages_;
};

}  // namespace plinth::parallel
