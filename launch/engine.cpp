// SPDX-License-Identifier: Apache-2.0
#include "launch/engine.h"

#include <algorithm>
#include <cmath>

#include "core/io/free_memory.h"
#include "core/nn/init.h"
#include "core/optim/grad_norm.h"
#include "launch/build.h"
#include "launch/host_memory.h"
#include "launch/plan.h"
#include "launch/training_state.h"
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

CachingAllocator& given_or(CachingAllocator* given, CachingAllocator& part) {
    return given ? *given : part;
}

/// Before any of its memory is taken.
const RunConfig& checked(const RunConfig& config, Session& session, parallel::Groups& groups) {
    if (!offloads(config)) return config;
    const MemoryPlan plan =
        memory_plan(config, session.world().size(), groups.coordinate(Axis::pipeline));
    require_host_memory(config, session.ranks(),
                        {.machine = session.world().host(),
                         .needed = plan.on_host(),
                         .free = core::io::free_memory()});
    return config;
}

std::unique_ptr<core::optim::Offload> make_offload(const OptimizerSection& config, Session& session,
                                                   CachingAllocator* given) {
    if (config.offload == OptimizerOffload::none) return nullptr;
    CachingAllocator& states = given ? *given : session.pageable_allocator();
    return std::make_unique<core::optim::Offload>(
        session.stream(),
        core::optim::Offload::Memory{.states = states, .blocks = session.host_allocator()});
}

std::unique_ptr<core::ActivationStore> make_activation_store(const TrainSection& config,
                                                             Session& session) {
    if (!config.offload_activations) return nullptr;
    return std::make_unique<core::ActivationStore>(
        session.host_source(),
        core::ActivationStore::Engines{.to_host = make_copy_engine(session.stream()),
                                       .to_device = make_copy_engine(session.stream())});
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
    : config_(checked(config, session, groups)),
      session_(session),
      groups_(groups),
      advice_(config, session),
      shared_(model.parameters().all(), groups.along(Axis::pipeline), session.allocator(),
              session.stream()),
      offload_(make_offload(config.optimizer, session, allocators.offloaded)),
      stage_(model.phases().front().chunks, groups.along(Axis::data),
             {.gradients = given_or(allocators.gradients, session.parts().gradients),
              .weights = given_or(allocators.weights, session.parts().weights)},
             session.stream(),
             {.is_pipeline = groups.size(Axis::pipeline) > 1,
              .is_shared = [this](const auto& parameter) { return shared_.contains(parameter); },
              .reducer = {.bucket_bytes = config.parallel.bucket_bytes,
                          .wire = dtype_of(config.parallel.wire_dtype),
                          .share = gradient_share(config.parallel.zero)},
              .zero = static_cast<int>(config.parallel.zero),
              .compute = dtype_of(config.train.dtype),
              .offload = offload_.get()}),
      fp8_(config, session, model, given_or(allocators.weights, session.parts().weights)),
      activations_(make_activation_store(config.train, session)),
      pipeline_(schedule_config(config.parallel), groups.along(Axis::pipeline),
                session.allocator()),
      step_number_(core::Tensor::empty({1}, DType::i64, session.allocator())),
      pace_(session),
      optimizer_(make_optimizer(config, stage_.masters(), offload_.get(),
                                given_or(allocators.optimizer, session.parts().optimizer))) {}

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

void Engine::decide_on_device() {
    // The host's own work is no part of a stream.
    if (!offload_)
        outcomes_ = std::make_unique<StepOutcomes>(
            session_.world(),
            StepOutcomes::Share{
                .parts = groups_.size(Axis::context),
                .part = groups_.coordinate(Axis::context),
                .is_given = groups_.is_last(Axis::pipeline) && groups_.is_first(Axis::tensor)},
            session_.stream(),
            StepOutcomes::Memory{.steps = session_.allocator(),
                                 .outcomes = session_.host_allocator()});
    if (!config_.run.graphs) return;
    CHECK(outcomes_ != nullptr, "run.graphs where the host decides steps");
    graphs_ = std::make_unique<MicroBatchGraphs>(session_.stream(), session_.memory(),
                                                 session_.allocator());
    outcomes_->use_graphs(graphs_->arena());
}

MemoryUse Engine::memory() const {
    MemoryUse sum = session_.allocator().use();
    if (!graphs_) return sum;
    const MemoryUse more = graphs_->arena().use();
    for (size_t MemoryUse::*const bytes :
         {&MemoryUse::in_use, &MemoryUse::peak, &MemoryUse::reserved, &MemoryUse::peak_reserved})
        sum.*bytes += more.*bytes;
    sum.requests += more.requests;
    sum.taken += more.taken;
    return sum;
}

StepMeans Engine::means(const parallel::StepScalars& scalars) {
    CHECK(!outcomes_, "means of a step that the device decides");
    const PhaseMark mark(session_.activity(), Phase::reduce);
    const auto weight = static_cast<double>(std::max<int64_t>(1, scalars.weight()));
    return {.weight = weight,
            .loss = scalars.loss_sum() / weight,
            .z_loss = scalars.z_loss_sum() / weight,
            .gradient_norm = gradient_sum_norm() / weight,
            .fp8_is_finite = is_finite(fp8_.end_step())};
}

/// Of the largest of the step's 8-bit tensors, see Fp8State::end_step. Waits for it.
bool Engine::is_finite(ConstView largest_in_eight_bits) {
    int64_t bits = 0;
    if (largest_in_eight_bits) {
        session_.stream().copy(&bits, largest_in_eight_bits.data, sizeof(bits));
        session_.stream().synchronize();
    }
    return bits < kernels::fp8_not_finite;
}

/// What this rank gives to the norm, in which each element is once: of what the stages hold alike
/// one gives it, with what was added to it.
std::vector<ParameterGradient> Engine::counted_once() const {
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
    return mine;
}

double Engine::gradient_sum_norm() {
    const PhaseMark mark(session_.activity(), Phase::reduce);
    return core::optim::gradient_norm(counted_once(), session_.ranks(), session_.allocator(),
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

void Engine::end_step(const parallel::StepScalars& scalars, double learning_rate) {
    if (!outcomes_) {
        decided_.push_back(means(scalars));
        return update(decided_.back(), learning_rate);
    }
    const PhaseMark mark(session_.activity(), Phase::optimizer);
    outcomes_->update({.squared = counted_once(),
                       .gradients = stage_.gradients(),
                       .learning_rate = learning_rate,
                       .clip = config_.optimizer.clip,
                       .number = number_in_memory(),
                       .fp8_largest = fp8_.end_step()},
                      optimizer_);
    fp8_.updated(outcomes_->outcome());
    stage_.masters_changed();  // or not: they are what they were where the step is skipped
}

std::optional<StepMeans> Engine::take_means(bool waits) {
    if (!outcomes_) {
        if (decided_.empty()) return std::nullopt;
        const StepMeans first = decided_.front();
        decided_.pop_front();
        return first;
    }
    const PhaseMark mark(session_.activity(), Phase::optimizer);
    const std::optional<StepOutcomes::Words> words = outcomes_->take(waits);
    if (!words) return std::nullopt;
    using kernels::StepWord;
    const StepMeans means{.weight = (*words)[StepWord::weight],
                          .loss = (*words)[StepWord::loss],
                          .z_loss = (*words)[StepWord::z_loss],
                          .gradient_norm = (*words)[StepWord::gradient_norm],
                          .fp8_is_finite = (*words)[StepWord::fp8_is_finite] == 1.0,
                          .slowest_seconds = (*words)[StepWord::slowest],
                          .fastest_seconds = (*words)[StepWord::fastest]};
    CHECK(means.is_finite() == ((*words)[StepWord::updates_here] == 1.0),
          "the device has decided otherwise than its loss {} and norm {} say", means.loss,
          means.gradient_norm);
    optimizer_.set_update_count(static_cast<int64_t>((*words)[StepWord::updates]));
    return means;
}

void Engine::set_update_count(int64_t count) {
    optimizer_.set_update_count(count);
    if (outcomes_) outcomes_->set_update_count(count);
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
