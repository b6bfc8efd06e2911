// SPDX-License-Identifier: Apache-2.0
#include "core/optim/adamw.h"

#include <cmath>
#include <map>
#include <utility>

#include "core/tensor/shard_runs.h"
#include "kernels/runtime/step_key.h"

namespace plinth::core::optim {

namespace {
/// Elements [begin, begin + count) of contiguous memory.
View part_of(const View& whole, int64_t begin, int64_t count) {
    auto* bytes = static_cast<std::byte*>(whole.data);
    return {bytes + begin * static_cast<int64_t>(size_of(whole.dtype)),
            whole.dtype,
            {count},
            whole.device};
}

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
      first_moments_(ranges_of(masters_), allocator, config.moments),
      second_moments_(ranges_of(masters_), allocator, config.moments) {}

AdamW::AdamW(std::vector<MasterWeights> masters, const AdamWConfig& config, Offload& offload)
    : config_(config),
      masters_(std::move(masters)),
      offload_(&offload),
      first_moments_(offload.make_states(ranges_of(masters_), config.moments)),
      second_moments_(offload.make_states(ranges_of(masters_), config.moments)) {
    for (const MasterWeights& master : masters_)
        CHECK(master.weights.device().type == DeviceType::cpu,
              "{}: master weights on a device, which the host is to update",
              master.range.parameter->name());
}

std::vector<ConstView> AdamW::in_order(std::span<const ParameterGradient> gradients) const {
    CHECK(gradients.size() == masters_.size(), "{} gradients for {} parameters or parts of them",
          gradients.size(), masters_.size());
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

void AdamW::add_parts(std::vector<kernels::AdamWPart>& parts, size_t i, int64_t first,
                      const ConstView& gradient, StepNumber number) {
    const ParameterRange& range = masters_[i].range;
    const View weights = masters_[i].weights.out(), means = first_moments_[i].out(),
               squares = second_moments_[i].out();
    const auto part = [&](int64_t begin, int64_t count) {
        return kernels::AdamWPart{.weight = part_of(weights, begin, count),
                                  .first_moment = part_of(means, begin, count),
                                  .second_moment = part_of(squares, begin, count),
                                  .gradient = {gradient.as<float>() + (begin - first),
                                               DType::f32,
                                               {count},
                                               gradient.device},
                                  .decays = range.parameter->spec().decay};
    };
    if (config_.moments == DType::f32) {
        parts.push_back(part(first, gradient.elements()));
        return;
    }
    const StepKey rounding(config_.seed, "moments." + range.parameter->name(), number);
    const int64_t in_parameter = range.begin + first;
    int64_t begin = first;
    for (const Shard& shard :
         shards_of({range.parameter, in_parameter, in_parameter + gradient.elements()})) {
        parts.push_back(part(begin, shard.elements()));
        parts.back().rounding = rounding;
        parts.back().elements = Runs(shard).as_rows();
        begin += shard.elements();
    }
}

std::vector<kernels::AdamWPart> AdamW::all_parts(std::span<const ParameterGradient> gradients,
                                                 StepNumber number) {
    const std::vector<ConstView> ordered = in_order(gradients);
    std::vector<kernels::AdamWPart> parts;
    for (size_t i = 0; i < masters_.size(); ++i)
        add_parts(parts, i, 0, ordered[i], number);
    return parts;
}

kernels::AdamW AdamW::options_at(int64_t update_count) const {
    const auto t = static_cast<double>(update_count);
    return {.beta1 = config_.beta1,
            .beta2 = config_.beta2,
            .eps = config_.eps,
            .bias_correction1 = 1.0 - std::pow(config_.beta1, t),
            .bias_correction2 = 1.0 - std::pow(config_.beta2, t)};
}

void AdamW::step(std::span<const ParameterGradient> gradients, const Step& step, Stream& stream) {
    kernels::AdamW options = options_at(update_count_ + 1);
    options.learning_rate = step.learning_rate;
    options.weight_decay = config_.weight_decay;
    options.gradient_scale = step.gradient_scale;
    if (offload_) {
        CHECK(step.number.is_known(), "an update on the host by a step's number on the device");
        offload_->fetch(in_order(gradients), [&](size_t i, int64_t begin, ConstView gradient) {
            std::vector<kernels::AdamWPart> parts;
            add_parts(parts, i, begin, gradient, step.number);
            kernels::adamw_parts.cpu(std::move(parts), options, stream);
        });
    } else {
        kernels::adamw_parts(all_parts(gradients, step.number), options, stream);
    }
    ++update_count_;
    for (const MasterWeights& master : masters_)
        master.range.parameter->changed();
}

kernels::StepTerms AdamW::terms(double learning_rate, double clip) const {
    kernels::StepTerms terms{.adamw = options_at(1), .clip = clip, .known_updates = update_count_};
    terms.adamw.learning_rate = learning_rate;
    terms.adamw.weight_decay = config_.weight_decay;
    for (int ahead = 0; ahead <= kernels::StepTerms::most_ahead; ++ahead) {
        const kernels::AdamW options = options_at(update_count_ + 1 + ahead);
        terms.bias_correction1[ahead] = options.bias_correction1;
        terms.bias_correction2[ahead] = options.bias_correction2;
    }
    return terms;
}

void AdamW::step_as_decided(std::span<const ParameterGradient> gradients, const Tensor& terms,
                            StepNumber number, Stream& stream) {
    CHECK(!offload_, "an update of offloaded states that the host did not decide");
    kernels::adamw_decided(all_parts(gradients, number), terms.in(), stream);
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
