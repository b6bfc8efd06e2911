// SPDX-License-Identifier: Apache-2.0
#include "launch/engine.h"

#include <span>

#include "core/nn/init.h"
#include "core/optim/grad_norm.h"
#include "launch/build.h"
#include "launch/training_state.h"
#include "parallel/data_parallel/replica_check.h"

namespace plinth::launch {

using core::optim::MasterWeights;
using parallel::Axis;
using parallel::Phase;
using parallel::PhaseMark;

// Shards are cut at any block of 1,024 elements.
static_assert(core::optim::AdamW::granularity == core::optim::Granularity::element);

namespace {

parallel::GradientShare gradient_share(int64_t zero) {
    if (zero == 0) return parallel::GradientShare::whole;
    return zero == 1 ? parallel::GradientShare::totals : parallel::GradientShare::owned_only;
}

std::vector<MasterWeights> copy_of(std::span<const MasterWeights> masters) {
    return {masters.begin(), masters.end()};
}

}  // namespace

Engine::Engine(const RunConfig& config, Session& session, parallel::Groups& groups,
               core::models::Model& model)
    : config_(config),
      session_(session),
      groups_(groups),
      model_(model),
      gradients_(model.parameters().all(), groups.along(Axis::data), session.allocator(),
                 session.stream(),
                 {.bucket_bytes = config.parallel.bucket_bytes,
                  .wire = dtype_of(config.parallel.wire_dtype),
                  .share = gradient_share(config.parallel.zero)}),
      weights_(parallel::make_weights(model.parameters().all(), gradients_.layout(),
                                      groups.along(Axis::data), session.allocator(),
                                      session.stream(),
                                      {.zero = static_cast<int>(config.parallel.zero),
                                       .compute = dtype_of(config.train.dtype),
                                       .before_gather = [this] { gradients_.start_finished(); }})),
      optimizer_(copy_of(weights_->masters()), adamw_config(config.optimizer),
                 session.allocator()) {}

void Engine::initialize(uint64_t seed) {
    for (MasterWeights master : weights_->masters())
        core::nn::initialize(*master.range.parameter, master.range.begin, master.weights.out(),
                             seed, session_.stream());
    weights_->masters_changed();
    weights_->settle();  // a checkpoint may be read into them next
}

void Engine::weights_changed() {
    weights_->masters_changed();
}

void Engine::run_micro_batches(const core::models::Phase& phase, const parallel::LanePlan& plan,
                               const core::StepState& step, const BatchSource& source,
                               parallel::StepScalars& scalars) {
    traffic_before_ = weights_->traffic();
    gradients_.begin_step(plan);
    int64_t round = 0;
    for (const int64_t slot : plan.slots_of(groups_.coordinate(Axis::data))) {
        weights_->begin_micro_batch(plan.lanes_in(round++));
        run_micro_batch(phase, slot, step, source(slot), scalars);
        weights_->end_micro_batch();
    }
    const PhaseMark mark(session_.activity(), Phase::reduce);
    for (; round < plan.rounds(); ++round)
        weights_->join_micro_batch(plan.lanes_in(round));
    gradients_.finish();
    weights_->settle();
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
    const PhaseMark mark(session_.activity(), Phase::forward);
    gradients_.begin_slot(slot);
    const core::ops::Loss loss = phase.loss(batch);
    const double cross_entropy = *loss.cross_entropy.in().as<double>();
    if (groups_.speaks_for_slot())
        scalars.set_slot(slot, cross_entropy, *loss.weight.in().as<int64_t>(),
                         *loss.sum.in().as<double>() - cross_entropy);
    std::vector<core::Root> roots{
        {loss.sum, core::Tensor::of<float>({1.0f}, {1}, session_.allocator())}};
    session_.activity().enter(Phase::backward);
    tape.backward(std::move(roots), {}, [this] { gradients_.progress(); });
    gradients_.end_slot();
}

double Engine::gradient_norm() {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    return core::optim::gradient_norm(gradients_.owned(), session_.ranks(), session_.allocator(),
                                      session_.stream());
}

std::vector<core::StateTensor> Engine::gradients() {
    std::vector<core::StateTensor> pieces;
    for (const auto& [parameter, gradient, begin] : gradients_.gradients())
        core::optim::append_state(pieces, "gradient." + parameter->name(),
                                  {parameter, begin, begin + gradient.elements()}, DType::f32,
                                  gradient.data);
    return pieces;
}

void Engine::update(const core::optim::AdamW::Step& step) {
    const PhaseMark mark(session_.activity(), Phase::optimizer);
    optimizer_.step(gradients_.gradients(), step, session_.stream());
    weights_->masters_changed();
}

parallel::LaneReducer::Statistics Engine::communication() const {
    parallel::LaneReducer::Statistics all = gradients_.statistics();
    const parallel::Weights::Traffic weights = weights_->traffic();
    all.bytes_sent += weights.bytes_sent - traffic_before_.bytes_sent;
    all.seconds_waiting += weights.seconds_waiting - traffic_before_.seconds_waiting;
    return all;
}

std::vector<core::StateTensor> Engine::weights(
    const std::function<bool(const core::Parameter&)>& wanted) {
    std::vector<core::StateTensor> tensors;
    for (MasterWeights master : weights_->masters())
        if (!wanted || wanted(*master.range.parameter))
            core::optim::append_state(tensors, weight_name(*master.range.parameter), master.range,
                                      DType::f32, master.weights.out().data);
    return tensors;
}

std::vector<core::StateTensor> Engine::state() {
    std::vector<core::StateTensor> tensors = weights();
    for (core::StateTensor& moment : optimizer_.state())
        tensors.push_back(std::move(moment));
    return tensors;
}

void Engine::check_replicas(int64_t step) {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    parallel::check_replicas(weights_->replicas(), groups_.along(Axis::data), step);
}

}  // namespace plinth::launch
