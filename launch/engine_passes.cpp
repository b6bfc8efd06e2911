// SPDX-License-Identifier: Apache-2.0
// The micro-batches of a step, captured or not, and the sums of their gradients.
#include "launch/engine.h"
#include "launch/loss_reader.h"
#include "launch/micro_batch.h"
#include "launch/plan.h"
#include "parallel/collective_ops/sum_gradients.h"

namespace plinth::launch {

using core::optim::ParameterGradient;
using parallel::Axis;
using parallel::Phase;
using parallel::PhaseMark;

void Engine::run_micro_batches(const core::models::Phase& phase, const parallel::LanePlan& plan,
                               const core::StepState& step, const BatchSource& source,
                               parallel::StepScalars& scalars) {
    const double waited = seconds_waited();
    if (outcomes_) {
        outcomes_->begin_step(plan.slots);
        run_passes(phase, plan, step, source, [this](int64_t slot, const core::ops::Loss& loss) {
            outcomes_->add(slot, loss);
        });
        outcomes_->end_passes();
        sum_gradients();
    } else {
        LossReader losses(session_, &groups_.along(Axis::context));
        run_passes(phase, plan, step, source, losses.collector());
        const PhaseMark mark(session_.activity(), Phase::reduce);
        for (const ReadLoss& loss : losses.read())
            if (groups_.speaks_for_slot())
                scalars.set_slot(loss.slot, loss.cross_entropy, loss.weight,
                                 loss.sum - loss.cross_entropy);
        sum_gradients();
    }
    waited_ = seconds_waited() - waited;
}

void Engine::run_passes(const core::models::Phase& phase, const parallel::LanePlan& plan,
                        const core::StepState& step, const BatchSource& source,
                        std::function<void(int64_t, const core::ops::Loss&)> on_loss) {
    core::Scope::Settings settings = session_.scope(dtype_of(config_.train.dtype));
    step_ = step.step;
    kernels::set_step_number(step_number_.out(), step_, session_.stream());
    settings.step = &step;
    settings.step_number = number_in_memory();
    settings.training = true;
    settings.remake = remakes_norms(config_.train.recompute);
    settings.remake_hidden = config_.train.recompute == Recompute::selective;
    settings.fp8 = fp8_.source();
    settings.activations = activations_.get();
    const auto slots = plan.aligned_slots_of(groups_.coordinate(Axis::data));
    stage_.begin_step(plan);
    fp8_.begin_step();
    if (graphs_) return launch_passes(phase, plan, settings, source);
    pipeline_.run(
        {.chunks = phase.chunks,
         .slots = slots,
         .scope = settings,
         .batch = [&](int64_t slot) { return share_tokens(source(slot), groups_, session_); },
         .on_loss = std::move(on_loss),
         .after_micro_batch =
             [this] {
                 if (outcomes_) pace_.end_micro_batch();
             },
         .gradients = &stage_,
         .activity = &session_.activity()});
}

StepNumber Engine::number_in_memory() const {
    return StepNumber::read_from(step_number_.in().as<int64_t>());
}

/// One micro-batch after the other, in the order of a pipeline of one stage.
void Engine::launch_passes(const core::models::Phase& phase, const parallel::LanePlan& plan,
                           const core::Scope::Settings& settings, const BatchSource& source) {
    {
        // Copies of weights in the dtype of the computation, and in 8 bits, are made by who reads
        // them first, and outlive a micro-batch: here, outside of graphs and their memory.
        const core::Scope scope(settings);
        for (const core::models::Chunk& chunk : phase.chunks)
            for (core::Parameter* parameter : chunk.parameters) {
                parameter->acquire(parameter->read_as(settings.compute));
                parameter->release();
                if (settings.fp8 && parameter->takes_fp8())
                    settings.fp8->weight(*parameter, /*transposed=*/false);
            }
    }
    core::Scope::Settings in_arena = settings;
    in_arena.allocator = &graphs_->arena();
    for (const int64_t slot : plan.slots_of(groups_.coordinate(Axis::data))) {
        const core::Batch batch = share_tokens(source(slot), groups_, session_);
        const auto pass = [&](const core::Batch& input) {
            core::ops::Loss loss;
            const std::optional<int64_t> slots[] = {slot};
            pipeline_.run({.chunks = phase.chunks,
                           .slots = slots,
                           .scope = in_arena,
                           .batch = [&](int64_t) { return input; },
                           .on_loss = [&](int64_t, const core::ops::Loss& made) { loss = made; },
                           .gradients = &stage_,
                           .activity = &session_.activity()});
            return loss;
        };
        MicroBatchKind kind = MicroBatchKind::of(batch, slot, plan);
        kind.scales_are_known = fp8_.scales_are_known();
        if (!kind.has_exchanges) stage_.complete_exchanges();
        outcomes_->add(slot,
                       graphs_->run(kind, batch, pass, [&] { stage_.slot_was_launched(slot); }));
        pace_.end_micro_batch();
    }
}

void Engine::sum_gradients() {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    stage_.finish([this](std::span<const ParameterGradient> owned) { sum_over_tokens(owned); });
    shared_.add(stage_.gradients());
}

/// For ranks beside which this one computes a micro-batch.
double Engine::seconds_waited() const {
    double sum = shared_.seconds_waited();
    for (const Axis axis : {Axis::pipeline, Axis::context, Axis::tensor})
        sum += groups_.along(axis).seconds_waited();
    return sum;
}

/// Ranks that share the tokens of a micro-batch each have a summand of its gradients: of all those
/// in a context group, in a tensor group where it works token by token.
void Engine::sum_over_tokens(std::span<const ParameterGradient> owned) {
    std::vector<ParameterGradient> partial;
    for (const ParameterGradient& entry : owned)
        if (entry.parameter->gradient_is_partial()) partial.push_back(entry);
    parallel::sum_gradients(partial, groups_.along(Axis::tensor), "partial gradients",
                            session_.allocator(), session_.stream());
    parallel::sum_gradients(owned, groups_.along(Axis::context), "gradients of other tokens",
                            session_.allocator(), session_.stream());
}

}  // namespace plinth::launch
