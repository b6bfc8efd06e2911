// SPDX-License-Identifier: Apache-2.0
#include "core/optim/adamw.h"

#include <cmath>
#include <map>

#include "kernels/adamw.h"

namespace plinth::core::optim {

namespace {
std::vector<ParameterRange> ranges_of(const std::vector<MasterWeights>& masters) {
    std::vector<ParameterRange> ranges;
    for (const MasterWeights& master : masters)
        ranges.push_back(master.range);
    return ranges;
}
}  // namespace

AdamW::AdamW(std::vector<MasterWeights> masters, const AdamWConfig& config,
             CachingAllocator& allocator)
    : config_(config),
      masters_(std::move(masters)),
      first_moments_(ranges_of(masters_), allocator),
      second_moments_(ranges_of(masters_), allocator) {}

AdamW::AdamW(std::vector<MasterWeights> masters, const AdamWConfig& config, Offload& offload)
    : AdamW(std::move(masters), config, offload.states()) {
    offload_ = &offload;
    for (const MasterWeights& master : masters_)
        CHECK(master.weights.device().type == DeviceType::cpu,
              "{}: master weights on a device, which the host is to update",
              master.range.parameter->name());
}

std::vector<ConstView> AdamW::in_order(std::span<const ParameterGradient> gradients) const {
    std::map<std::pair<const Parameter*, int64_t>, View> by_range;
    for (const ParameterGradient& entry : gradients)
        by_range.emplace(std::pair(entry.parameter, entry.begin), entry.gradient);
    std::vector<ConstView> ordered;
    for (const auto& [range, weights] : masters_) {
        const auto found = by_range.find({range.parameter, range.begin});
        CHECK(found != by_range.end() && found->second.elements() == range.elements(),
              "{}: no gradient arrived for its elements {} to {}", range.parameter->name(),
              range.begin, range.end);
        ordered.push_back(found->second);
    }
    return ordered;
}

void AdamW::step(std::span<const ParameterGradient> gradients, const Step& step, Stream& stream) {
    CHECK(gradients.size() == masters_.size(), "{} gradients for {} parameters or parts of them",
          gradients.size(), masters_.size());
    ++update_count_;
    const auto t = static_cast<double>(update_count_);
    kernels::AdamW options{.learning_rate = step.learning_rate,
                           .beta1 = config_.beta1,
                           .beta2 = config_.beta2,
                           .eps = config_.eps,
                           .bias_correction1 = 1.0 - std::pow(config_.beta1, t),
                           .bias_correction2 = 1.0 - std::pow(config_.beta2, t),
                           .gradient_scale = step.gradient_scale};
    const std::vector<ConstView> ordered = in_order(gradients);
    const auto options_of = [&](size_t i) -> const kernels::AdamW& {
        const bool decays = masters_[i].range.parameter->spec().decay;
        options.weight_decay = decays ? config_.weight_decay : 0.0;
        return options;
    };
    if (offload_)
        offload_->fetch(ordered, [&](size_t i, int64_t begin, ConstView gradient) {
            const auto part = [&](Tensor& whole) {
                return View(whole.data<float>() + begin, DType::f32, {gradient.elements()});
            };
            kernels::adamw.cpu(part(masters_[i].weights), part(first_moments_[i]),
                               part(second_moments_[i]), gradient, options_of(i), stream);
        });
    else
        for (size_t i = 0; i < masters_.size(); ++i)
            kernels::adamw(masters_[i].weights.out(), first_moments_[i].out(),
                           second_moments_[i].out(), ordered[i], options_of(i), stream);
    for (const MasterWeights& master : masters_)
        master.range.parameter->changed();
}

std::vector<StateTensor> AdamW::state() {
    std::vector<StateTensor> state = first_moments_.state("optimizer.m.");
    for (StateTensor& tensor : second_moments_.state("optimizer.v."))
        state.push_back(std::move(tensor));
    return state;
}

}  // namespace plinth::core::optim
