// SPDX-License-Identifier: Apache-2.0
#include "core/optim/adamw.h"

#include <cmath>
#include <map>

#include "core/tensor/shard_runs.h"
#include "kernels/runtime/philox.h"

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

void AdamW::for_parts(size_t i, int64_t begin, int64_t count, int64_t number,
                      kernels::AdamW options, Update update) const {
    const ParameterRange& range = masters_[i].range;
    options.weight_decay = range.parameter->spec().decay ? config_.weight_decay : 0.0;
    if (config_.moments == DType::f32) return update(begin, count, options);
    options.rounding = RandomKey(config_.seed, "moments." + range.parameter->name(),
                                 static_cast<uint64_t>(number));
    const int64_t first = range.begin + begin;
    for (const Shard& shard : shards_of({range.parameter, first, first + count})) {
        options.elements = Runs(shard).as_rows();
        update(begin, shard.elements(), options);
        begin += shard.elements();
    }
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
    const auto update_with = [&](size_t i, int64_t first, const ConstView& gradient,
                                 auto&& kernel) {
        const View weights = masters_[i].weights.out(), means = first_moments_[i].out(),
                   squares = second_moments_[i].out();
        for_parts(i, first, gradient.elements(), step.number, options,
                  [&](int64_t begin, int64_t count, const kernels::AdamW& part) {
                      kernel(part_of(weights, begin, count), part_of(means, begin, count),
                             part_of(squares, begin, count),
                             ConstView(gradient.as<float>() + (begin - first), DType::f32, {count},
                                       gradient.device),
                             part, stream);
                  });
    };
    if (offload_)
        offload_->fetch(ordered, [&](size_t i, int64_t begin, ConstView gradient) {
            update_with(i, begin, gradient, kernels::adamw.cpu);
        });
    else
        for (size_t i = 0; i < masters_.size(); ++i)
            update_with(i, 0, ordered[i], kernels::adamw);
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
