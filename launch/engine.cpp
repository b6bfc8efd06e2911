// SPDX-License-Identifier: Apache-2.0
#include "launch/engine.h"

#include <algorithm>
#include <cmath>

#include "core/nn/init.h"
#include "core/optim/grad_norm.h"
#include "launch/build.h"
#include "launch/loss_reader.h"
#include "launch/micro_batch.h"
#include "launch/training_state.h"
#include "parallel/collective_ops/sum_gradients.h"
#include "parallel/data_parallel/replica_check.h"

namespace plinth::launch {

using core::optim::MasterWeights;
using core::optim::ParameterGradient;
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

CachingAllocator& given_or_of(Session& session, CachingAllocator* given) {
    return given ? *given : session.allocator();
}

std::unique_ptr<core::optim::Offload> make_offload(const OptimizerSection& config, Session& session,
                                                   CachingAllocator* given) {
    if (config.offload == OptimizerOffload::none) return nullptr;
    CachingAllocator& states = given ? *given : session.pageable_allocator();
    return std::make_unique<core::optim::Offload>(
        session.stream(),
        core::optim::Offload::Memory{.states = states, .blocks = session.host_allocator()});
}

core::optim::AdamW make_optimizer(const RunConfig& config, std::vector<MasterWeights> masters,
                                  core::optim::Offload* offload, CachingAllocator& allocator) {
    if (offload) return {std::move(masters), adamw_config(config), *offload};
    return {std::move(masters), adamw_config(config), allocator};
}

}  // namespace

bool StepMeans::is_finite() const {
    return std::isfinite(gradient_norm) && std::isfinite(loss) && fp8_is_finite;
}

Engine::Engine(const RunConfig& config, Session& session, parallel::Groups& groups,
               core::models::Model& model, const StateAllocators& allocators)
    : config_(config),
      session_(session),
      groups_(groups),
      shared_(model.parameters().all(), groups.along(Axis::pipeline), session.allocator(),
              session.stream()),
      offload_(make_offload(config.optimizer, session, allocators.offloaded)),
      stage_(model.phases().front().chunks, groups.along(Axis::data),
             {.gradients = given_or_of(session, allocators.gradients),
              .weights = given_or_of(session, allocators.weights)},
             session.stream(),
             {.is_pipeline = groups.size(Axis::pipeline) > 1,
              .is_shared = [this](const auto& parameter) { return shared_.contains(parameter); },
              .reducer = {.bucket_bytes = config.parallel.bucket_bytes,
                          .wire = dtype_of(config.parallel.wire_dtype),
                          .share = gradient_share(config.parallel.zero)},
              .zero = static_cast<int>(config.parallel.zero),
              .compute = dtype_of(config.train.dtype),
              .offload = offload_.get()}),
      fp8_(config, session, model, given_or_of(session, allocators.weights)),
      pipeline_(schedule_config(config.parallel), groups.along(Axis::pipeline),
                session.allocator()),
      optimizer_(make_optimizer(config, stage_.masters(), offload_.get(),
                                given_or_of(session, allocators.optimizer))) {}

void Engine::initialize(uint64_t seed) {
    for (MasterWeights master : stage_.masters())
        core::nn::initialize(*master.range.parameter, master.range.begin, master.weights.out(),
                             seed, session_.stream());
    stage_.masters_changed();
    stage_.settle();  // a checkpoint may be read into them next
}

void Engine::weights_changed() {
    stage_.masters_changed();
}

void Engine::run_micro_batches(const core::models::Phase& phase, const parallel::LanePlan& plan,
                               const core::StepState& step, const BatchSource& source,
                               parallel::StepScalars& scalars) {
    core::Scope::Settings settings = session_.scope(dtype_of(config_.train.dtype));
    step_ = step.step;
    settings.step = &step;
    settings.training = true;
    settings.remake = config_.train.recompute == Recompute::selective;
    settings.fp8 = fp8_.source();
    const auto slots = plan.aligned_slots_of(groups_.coordinate(Axis::data));
    LossReader losses(session_, &groups_.along(Axis::context));
    const double waited = seconds_waited();
    stage_.begin_step(plan);
    fp8_.begin_step();
    pipeline_.run(
        {.chunks = phase.chunks,
         .slots = slots,
         .scope = settings,
         .batch = [&](int64_t slot) { return share_tokens(source(slot), groups_, session_); },
         .on_loss = losses.collector(),
         .gradients = &stage_,
         .activity = &session_.activity()});
    const PhaseMark mark(session_.activity(), Phase::reduce);
    for (const ReadLoss& loss : losses.read())
        if (groups_.speaks_for_slot())
            scalars.set_slot(loss.slot, loss.cross_entropy, loss.weight,
                             loss.sum - loss.cross_entropy);
    stage_.finish([this](std::span<const ParameterGradient> owned) { sum_over_tokens(owned); });
    shared_.add(stage_.gradients());
    waited_ = seconds_waited() - waited;
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

StepMeans Engine::means(const parallel::StepScalars& scalars) {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    const auto weight = static_cast<double>(std::max<int64_t>(1, scalars.weight()));
    return {.weight = weight,
            .loss = scalars.loss_sum() / weight,
            .z_loss = scalars.z_loss_sum() / weight,
            .gradient_norm = gradient_sum_norm() / weight,
            .fp8_is_finite = fp8_.end_step()};
}

double Engine::gradient_sum_norm() {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    // Each element once: of what the stages hold alike one gives it, with what was added to it.
    std::vector<ParameterGradient> mine;
    for (const ParameterGradient& entry : stage_.owned())
        if (!shared_.contains(*entry.parameter)) mine.push_back(entry);
    if (config_.parallel.zero > 0 || groups_.is_first(Axis::data))
        for (const ParameterGradient& entry : stage_.gradients())
            if (shared_.contains(*entry.parameter) && shared_.counts(*entry.parameter))
                mine.push_back(entry);
    // The ranks of a tensor group hold alike the parameters that it does not cut: one gives them.
    if (!groups_.is_first(Axis::tensor))
        std::erase_if(mine, [](const auto& entry) { return entry.parameter->is_whole(); });
    if (!groups_.is_first(Axis::context)) mine.clear();  // all of it is alike there
    return core::optim::gradient_norm(mine, session_.ranks(), session_.allocator(),
                                      session_.stream());
}

std::vector<core::StateTensor> Engine::gradients() {
    std::vector<core::StateTensor> pieces;
    for (const auto& [parameter, gradient, begin] : stage_.gradients())
        core::optim::append_state(pieces, "gradient." + parameter->name(),
                                  {parameter, begin, begin + gradient.elements()}, gradient);
    return pieces;
}

void Engine::update(const StepMeans& means, double learning_rate) {
    if (!means.is_finite()) return;
    const PhaseMark mark(session_.activity(), Phase::optimizer);
    const double limit = config_.optimizer.clip;
    const double clip =
        limit > 0 && means.gradient_norm > limit ? limit / means.gradient_norm : 1.0;
    optimizer_.step(
        stage_.gradients(),
        {.learning_rate = learning_rate, .gradient_scale = clip / means.weight, .number = step_},
        session_.stream());
    stage_.masters_changed();
    fp8_.updated();
}

parallel::LaneReducer::Statistics Engine::communication() const {
    parallel::LaneReducer::Statistics all = stage_.statistics();
    all.seconds_waiting += waited_;
    return all;
}

std::vector<core::StateTensor> Engine::weights(
    const std::function<bool(const core::Parameter&)>& wanted) {
    std::vector<core::StateTensor> tensors;
    for (MasterWeights master : stage_.masters())
        if (!wanted || wanted(*master.range.parameter))
            core::optim::append_state(tensors, weight_name(*master.range.parameter), master.range,
                                      master.weights.out());
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
    const std::vector<core::StateTensor> replicas = stage_.replicas();
    session_.stream().synchronize();  // hashes are taken beside the stream
    parallel::check_replicas(replicas, groups_.along(Axis::data), step);
    parallel::check_replicas(weights([](const auto& parameter) { return parameter.is_whole(); }),
                             groups_.along(Axis::tensor), step);
    parallel::check_replicas(weights(), groups_.along(Axis::context), step);
    if (shared_.parameters().empty()) return;
    // Both stages own the same of what they share.
    parallel::check_replicas(
        weights([this](const core::Parameter& parameter) { return shared_.contains(parameter); }),
        shared_.holders(), step);
}

}  // namespace plinth::launch
