// SPDX-License-Identifier: Apache-2.0
#include "launch/engine.h"

#include <span>

#include "core/nn/init.h"
#include "core/optim/grad_norm.h"
#include "launch/build.h"
#include "launch/training_state.h"
#include "parallel/data_parallel/replica_check.h"

namespace plinth::launch {

using core::optim::ParameterGradient;
using parallel::Axis;

Engine::Engine(const RunConfig& config, Session& session, parallel::Groups& groups,
               core::models::Model& model)
    : config_(config),
      session_(session),
      groups_(groups),
      model_(model),
      gradients_(model.parameters().all(), groups.along(Axis::data), session.allocator(),
                 session.stream(),
                 {.bucket_bytes = config.parallel.bucket_bytes,
                  .wire = dtype_of(config.parallel.wire_dtype)}),
      masters_(core::optim::materialize(model.parameters().all(), session.allocator())),
      optimizer_(model.parameters().all(), adamw_config(config.optimizer), session.allocator()) {}

void Engine::initialize(uint64_t seed) {
    for (core::Parameter* parameter : model_.parameters().all())
        core::nn::initialize(*parameter, seed, session_.stream());
}

void Engine::weights_changed() {
    for (core::Parameter* parameter : model_.parameters().all())
        parameter->changed();
}

void Engine::run_micro_batches(const core::models::Phase& phase, const parallel::LanePlan& plan,
                               const core::StepState& step, const BatchSource& source,
                               parallel::StepScalars& scalars) {
    gradients_.begin_step(plan);
    for (const int64_t slot : plan.slots_of(groups_.coordinate(Axis::data)))
        run_micro_batch(phase, slot, step, source(slot), scalars);
    gradients_.finish();
}

void Engine::run_micro_batch(const core::models::Phase& phase, int64_t slot,
                             const core::StepState& step, const core::Batch& batch,
                             parallel::StepScalars& scalars) {
    core::Tape tape;
    core::Scope::Settings settings = session_.scope(dtype_of(config_.train.dtype));
    settings.tape = &tape;
    settings.step = &step;
    settings.training = true;
    settings.remake = config_.train.recompute == Recompute::selective;
    const core::Scope scope(settings);
    gradients_.begin_slot(slot);
    const core::ops::Loss loss = phase.loss(batch);
    if (groups_.speaks_for_slot())
        scalars.set_slot(slot, *loss.cross_entropy.in().as<double>(),
                         *loss.weight.in().as<int64_t>());
    std::vector<core::Root> roots{
        {loss.sum, core::Tensor::of<float>({1.0f}, {1}, session_.allocator())}};
    tape.backward(std::move(roots), {}, [this] { gradients_.progress(); });
    gradients_.end_slot();
}

double Engine::gradient_norm() {
    // The ranks of a data group have the same sums: one gives them.
    const std::span<const ParameterGradient> all = gradients_.gradients();
    return core::optim::gradient_norm(groups_.is_first(Axis::data) ? all : all.first(0),
                                      session_.ranks(), session_.allocator(), session_.stream());
}

std::vector<core::StateTensor> Engine::gradients() {
    std::vector<core::StateTensor> pieces;
    for (const ParameterGradient& entry : gradients_.gradients())
        core::optim::append_state(pieces, "gradient." + entry.parameter->name(), *entry.parameter,
                                  entry.gradient.as<float>());
    return pieces;
}

void Engine::update(const core::optim::AdamW::Step& step) {
    optimizer_.step(gradients_.gradients(), step, session_.stream());
}

std::vector<core::StateTensor> Engine::state() {
    return state_tensors(model_.parameters().all(), optimizer_);
}

void Engine::check_replicas(int64_t step) {
    parallel::check_replicas(model_.parameters().all(), groups_.along(Axis::data), step);
}

}  // namespace plinth::launch
