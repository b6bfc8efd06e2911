// SPDX-License-Identifier: Apache-2.0
#include "core/optim/adamw.h"

#include <cmath>
#include <unordered_map>

#include "kernels/adamw.h"

namespace plinth::core::optim {

AdamW::AdamW(std::span<Parameter* const> parameters, const AdamWConfig& config,
             CachingAllocator& allocator)
    : config_(config),
      parameters_(parameters.begin(), parameters.end()),
      first_moments_(parameters, allocator),
      second_moments_(parameters, allocator) {}

void AdamW::step(std::span<const ParameterGradient> gradients, const Step& step, Stream& stream) {
    CHECK(gradients.size() == parameters_.size(), "{} gradients for {} parameters",
          gradients.size(), parameters_.size());
    ++update_count_;
    const auto t = static_cast<double>(update_count_);
    kernels::AdamW options{.learning_rate = step.learning_rate,
                           .beta1 = config_.beta1,
                           .beta2 = config_.beta2,
                           .eps = config_.eps,
                           .bias_correction1 = 1.0 - std::pow(config_.beta1, t),
                           .bias_correction2 = 1.0 - std::pow(config_.beta2, t),
                           .gradient_scale = step.gradient_scale};
    std::unordered_map<const Parameter*, View> by_parameter;
    for (const ParameterGradient& entry : gradients)
        by_parameter.emplace(entry.parameter, entry.gradient);
    for (size_t i = 0; i < parameters_.size(); ++i) {
        Parameter& parameter = *parameters_[i];
        const auto found = by_parameter.find(&parameter);
        CHECK(found != by_parameter.end(), "{}: no gradient arrived for it", parameter.name());
        options.weight_decay = parameter.spec().decay ? config_.weight_decay : 0.0;
        kernels::adamw(parameter.master().out(), first_moments_[i].out(), second_moments_[i].out(),
                       found->second, options, stream);
        parameter.changed();
    }
}

std::vector<StateTensor> AdamW::state() {
    std::vector<StateTensor> state = first_moments_.state("optimizer.m.");
    for (StateTensor& tensor : second_moments_.state("optimizer.v."))
        state.push_back(std::move(tensor));
    return state;
}

}  // namespace plinth::core::optim
