// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "core/data/loader.h"
#include "core/models/model.h"
#include "launch/loss_reader.h"
#include "launch/session.h"
#include "parallel/comm/groups.h"
#include "parallel/pipeline_parallel/runner.h"

namespace plinth::launch {

/// Losses of numbered micro-batches by forward passes alone, in any layout: each copy of the model
/// (a data rank with all that hold it together) takes its share of them.
class ForwardPasses {
  public:
    struct Options {
        parallel::ScheduleConfig schedule;  ///< of the layout's pipeline
        DType dtype = DType::f32;           ///< of activations and compute weights
        bool document_mask = false;
    };
    /// Model, groups and session must outlive it.
    ForwardPasses(core::models::Model& model, const parallel::Groups& groups, Session& session,
                  const Options& options);

    using Load = std::function<core::data::MicroBatch(int64_t number)>;
    using OnLoss = std::function<void(const ReadLoss& loss)>;
    /// Collective. Micro-batches first to end - 1. `load` is asked by all ranks of the copy that
    /// computes one, in order; for some it may be asked once more. `on_loss` hears of each once, on
    /// one rank, when all are done.
    void run(int64_t first, int64_t end, const Load& load, const OnLoss& on_loss);

  private:
    core::models::Model& model_;
    const parallel::Groups& groups_;
    Session& session_;
    Options options_;
    parallel::PipelineRunner pipeline_;
};

}  // namespace plinth::launch
