// SPDX-License-Identifier: Apache-2.0
#include "launch/fp8_state.h"

#include <set>
#include <sstream>

namespace plinth::launch {

namespace {

/// Compute capability of the first cards with 8-bit matrix units (Ada; Hopper is 90).
constexpr int first_capability = 89;

void require_device(Session& session) {
    const Device device = session.device();
    if (device.type == DeviceType::cpu) return;  // in bf16 products, whose operands hold 8-bit ones
    const DeviceInfo info = cuda_module().info(device.index);
    REQUIRE(config, info.capability >= first_capability,
            "train.fp8: {} has compute capability {}.{} and no 8-bit products, which need 8.9 or "
            "more: set train.fp8=none",
            info.name, info.capability / 10, info.capability % 10);
}

/// Of all ranks together, in order.
std::vector<std::string> fp8_weights(Session& session, core::models::Model& model) {
    std::string mine;
    for (const core::Parameter* parameter : model.parameters().all())
        if (parameter->takes_fp8()) mine += parameter->name() + '\n';
    std::set<std::string> names;
    for (const std::string& text : session.ranks().gather(mine, 0)) {
        std::istringstream lines(text);
        for (std::string name; std::getline(lines, name);)
            names.insert(name);
    }
    std::string all;
    for (const std::string& name : names)
        all += name + '\n';
    std::istringstream lines(session.ranks().broadcast(all, 0));
    std::vector<std::string> result;
    for (std::string name; std::getline(lines, name);)
        result.push_back(name);
    return result;
}

}  // namespace

Fp8State::Fp8State(const RunConfig& config, Session& session, core::models::Model& model,
                   CachingAllocator& weights)
    : session_(session) {
    if (config.train.fp8 == Fp8Scaling::none) return;
    require_device(session);
    // Where ranks gather weights for each use, nobody keeps a copy of them.
    const bool keeps_weights = config.parallel.zero < 3;
    if (config.train.fp8 == Fp8Scaling::current) {
        scaling_ = std::make_unique<core::CurrentScaling>(weights, keeps_weights);
        return;
    }
    auto delayed = std::make_unique<core::DelayedScaling>(
        core::DelayedScaling::Memory{.weights = weights, .late = session.host_allocator()},
        keeps_weights, core::Fp8History(fp8_weights(session, model), weights, session.stream()));
    delayed_ = delayed.get();
    scaling_ = std::move(delayed);
}

void Fp8State::begin_step() {
    has_seen_ = false;  // a step that was skipped by the host
    if (scaling_) scaling_->begin_step(session_.stream());
}

ConstView Fp8State::end_step() {
    if (!delayed_) return {};
    core::Tensor& words = delayed_->step_words(session_.stream());
    const int64_t count = words.elements();
    session_.world().all_reduce("largest of 8-bit tensors",
                                std::span(words.out().as<int64_t>(), static_cast<size_t>(count)),
                                parallel::Reduce::max);
    has_seen_ = true;
    return words.rows(count - 1, count).in();
}

void Fp8State::updated(ConstView outcome) {
    if (has_seen_) delayed_->push(outcome, session_.stream());
    has_seen_ = false;
}

std::string Fp8State::history_text() const {
    return delayed_ ? delayed_->history().text(session_.stream()) : "";
}

void Fp8State::restore(const std::string& text, const std::string& where) {
    if (delayed_ && !text.empty()) delayed_->restore(text, where, session_.stream());
}

}  // namespace plinth::launch
