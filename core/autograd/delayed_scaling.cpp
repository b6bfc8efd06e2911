// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/delayed_scaling.h"

#include <algorithm>
#include <bit>
#include <sstream>

namespace plinth::core {

// --- history ------------------------------------------------------------------------------------

Fp8History::Fp8History(std::vector<std::string> weights) : weights_(std::move(weights)) {
    for (const std::string& name : weights_)
        CHECK(numbers_.emplace(name, numbers_.size()).second, "{}: twice in one history", name);
}

size_t Fp8History::index_of(const std::string& weight, Fp8Role role) const {
    const auto found = numbers_.find(weight);
    CHECK(found != numbers_.end(), "{}: no history of it", weight);
    return found->second * fp8_roles + static_cast<size_t>(role);
}

float Fp8History::largest(size_t tensor) const {
    float most = 0.0f;
    for (const std::vector<float>& step : steps_)
        most = std::max(most, step[tensor]);
    return most;
}

void Fp8History::push(std::vector<float> largest) {
    CHECK(largest.size() == tensors(), "{} magnitudes of {} tensors", largest.size(), tensors());
    steps_.push_back(std::move(largest));
    if (steps_.size() > length) steps_.pop_front();
}

std::string Fp8History::text() const {
    std::string text = fmt::format("weights {}\nsteps {}\n", weights_.size(), steps_.size());
    for (size_t weight = 0; weight < weights_.size(); ++weight) {
        text += weights_[weight];
        for (const std::vector<float>& step : steps_)
            for (size_t role = 0; role < fp8_roles; ++role)
                text +=
                    fmt::format(" {:x}", std::bit_cast<uint32_t>(step[weight * fp8_roles + role]));
        text += '\n';
    }
    return text;
}

void Fp8History::restore(const std::string& text, const std::string& where) {
    std::istringstream in(text);
    std::string word, name;
    size_t weights = 0, steps = 0;
    const auto require = [&](bool holds, const std::string& what) {
        REQUIRE(io, holds, "{}: the history of 8-bit tensors (train.fp8=delayed) {}", where, what);
    };
    require(in >> word >> weights && word == "weights" && in >> word >> steps && word == "steps" &&
                steps <= length,
            "has no sound head");
    require(weights == weights_.size(),
            fmt::format("is of {} weights, the model has {}", weights, weights_.size()));
    std::deque<std::vector<float>> read(steps, std::vector<float>(tensors()));
    for (size_t line = 0; line < weights; ++line) {
        in >> name;
        require(in && numbers_.contains(name),
                fmt::format("names '{}', which is no weight of the model", name));
        for (std::vector<float>& step : read)
            for (size_t role = 0; role < fp8_roles; ++role) {
                uint32_t bits = 0;
                in >> std::hex >> bits;
                require(in && bits < 0x7f800000u,
                        fmt::format("has no magnitude where {} needs one", name));
                step[numbers_.at(name) * fp8_roles + role] = std::bit_cast<float>(bits);
            }
    }
    steps_ = std::move(read);
}

// --- scaling ------------------------------------------------------------------------------------

DelayedScaling::DelayedScaling(CachingAllocator& weights, bool keeps_weights, Fp8History history)
    : CurrentScaling(weights, keeps_weights),
      history_(std::move(history)),
      host_scales_(history_.tensors(), 0.0f) {
    const auto tensors = static_cast<int64_t>(history_.tensors());
    scales_ = Tensor::empty({tensors}, DType::f32, weights);
    largest_ = Tensor::empty({tensors}, DType::f32, weights);
}

void DelayedScaling::begin_step(Stream& stream) {
    CurrentScaling::begin_step(stream);
    stream.synchronize();  // the scales of the step before have been copied
    for (size_t i = 0; i < host_scales_.size(); ++i) {
        const float most = history_.largest(i);
        const auto role = static_cast<Fp8Role>(i % fp8_roles);
        host_scales_[i] =
            most > 0.0f ? kernels::fp8_scale_for(std::bit_cast<uint32_t>(most), format_of(role))
                        : 0.0f;
    }
    stream.copy(scales_.out().data, host_scales_.data(), host_scales_.size() * sizeof(float));
    stream.set_zero(largest_.out().data, host_scales_.size() * sizeof(float));
}

CurrentScaling::Scale DelayedScaling::known_scale(const Parameter& weight, Fp8Role role) {
    const size_t index = history_.index_of(weight.name(), role);
    const auto row = static_cast<int64_t>(index);
    Tensor largest = largest_.rows(row, row + 1);
    return {host_scales_[index] > 0.0f ? scales_.rows(row, row + 1) : Tensor(), largest.out()};
}

}  // namespace plinth::core
