// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "core/optim/gradients.h"
#include "core/optim/offload.h"
#include "core/optim/parameter_storage.h"
#include "kernels/adamw.h"
#include "kernels/runtime/stream.h"
#include "kernels/step_decision.h"

namespace plinth::core::optim {

/// What an optimizer must see at once to update an element: shards of its state are cut no finer.
enum class Granularity { element, row, matrix };

/// Decoupled weight decay (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization").
struct AdamWConfig {
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;   ///< on parameters declared with decay: matrices and embeddings
    DType moments = DType::f32;  ///< or bf16, stochastically rounded (kernels/adamw.h)
    uint64_t seed = 0;           ///< of that rounding
};

/// AdamW over fp32 master weights. Elementwise: any cut of its state gives the same bits, those of
/// rounded moments included.
class AdamW {
  public:
    static constexpr Granularity granularity = Granularity::element;

    /// Has moments for these weights only and keeps references to them.
    AdamW(std::vector<MasterWeights> masters, const AdamWConfig& config,
          CachingAllocator& allocator);
    /// The host updates: master weights are in its memory, and so are the moments. The same bits.
    /// `offload` must outlive it.
    AdamW(std::vector<MasterWeights> masters, const AdamWConfig& config, Offload& offload);
    AdamW(std::span<Parameter* const> parameters, const AdamWConfig& config,
          CachingAllocator& allocator)
        : AdamW(masters_of(parameters), config, allocator) {}

    struct Step {
        double learning_rate = 0.0;
        double gradient_scale =
            1.0;            ///< clip factor / global weight: the only division of the gradient
        StepNumber number;  ///< of the training step: rounded moments draw by it
    };
    /// One update; `gradients` holds that of each range of the optimizer once, in any order.
    void step(std::span<const ParameterGradient> gradients, const Step& step, Stream& stream);

    /// For kernels::decide_step, which decides what a step does while the host knows of those up to
    /// `update_count()` only.
    kernels::StepTerms terms(double learning_rate, double clip) const;
    /// The update that was decided, or none; `terms` as that kernel wrote them, `number` as in
    /// Step. The host counts it later, by `set_update_count`. Not with offloaded states.
    void step_as_decided(std::span<const ParameterGradient> gradients, const Tensor& terms,
                         StepNumber number, Stream& stream);

    /// Adam's t: updates made, skipped steps not counted. Part of the training state.
    int64_t update_count() const { return update_count_; }
    void set_update_count(int64_t count) { update_count_ = count; }
    /// Moments, as optimizer.m.NAME and optimizer.v.NAME.
    std::vector<StateTensor> state();

  private:
    /// Of the update that makes `update_count` of them.
    kernels::AdamW options_at(int64_t update_count) const;
    /// Adds to `parts` the elements of master weights i from `first` on of which this is the
    /// gradient, for step `number`: at once, or, where their places in the parameter matter, each
    /// box by itself.
    void add_parts(std::vector<kernels::AdamWPart>& parts, size_t i, int64_t first,
                   const ConstView& gradient, StepNumber number);
    /// Of all master weights.
    std::vector<kernels::AdamWPart> all_parts(std::span<const ParameterGradient> gradients,
                                              StepNumber number);
    /// The gradients in the order of the master weights.
    std::vector<ConstView> in_order(std::span<const ParameterGradient> gradients) const;

    AdamWConfig config_;
    std::vector<MasterWeights> masters_;
    Offload* offload_ = nullptr;  ///< null: the stream updates, where all of it lies
    FlatTensors first_moments_;
    FlatTensors second_moments_;
    int64_t update_count_ = 0;
};

}  // namespace plinth::core::optim
