// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/delayed_scaling.h"

#include <algorithm>
#include <bit>
#include <sstream>
#include <utility>

namespace plinth::core {

// --- history ------------------------------------------------------------------------------------

Fp8History::Fp8History(std::vector<std::string> weights, CachingAllocator& allocator,
                       Stream& stream)
    : weights_(std::move(weights)) {
    for (const std::string& name : weights_)
        CHECK(numbers_.emplace(name, numbers_.size()).second, "{}: twice in one history", name);
    rows_ = Tensor::empty({kernels::fp8_history_steps, static_cast<int64_t>(tensors())}, DType::f32,
                          allocator);
    count_ = Tensor::empty({1}, DType::i64, allocator);
    for (Tensor* all : {&rows_, &count_})
        stream.set_zero(all->out().data, all->in().bytes());
}

size_t Fp8History::index_of(const std::string& weight, Fp8Role role) const {
    const auto found = numbers_.find(weight);
    CHECK(found != numbers_.end(), "{}: no history of it", weight);
    return found->second * fp8_roles + static_cast<size_t>(role);
}

void Fp8History::scales(View scales, View lasts, Stream& stream) const {
    kernels::fp8_history_scales(scales, lasts, rows_.in(), count_.in(), stream);
}

void Fp8History::push(ConstView words, ConstView outcome, Stream& stream) {
    kernels::fp8_history_push(rows_.out(), count_.out(), words, outcome, stream);
}

std::string Fp8History::text(Stream& stream) const {
    const auto count = static_cast<size_t>(count_.read<int64_t>(stream)[0]);
    const std::vector<float> rows = rows_.read<float>(stream);
    const size_t steps = std::min(count, length);
    std::string text = fmt::format("weights {}\nsteps {}\n", weights_.size(), steps);
    for (size_t weight = 0; weight < weights_.size(); ++weight) {
        text += weights_[weight];
        for (size_t step = count - steps; step < count; ++step)  // oldest first
            for (size_t role = 0; role < fp8_roles; ++role) {
                const float seen = rows[step % length * tensors() + weight * fp8_roles + role];
                text += fmt::format(" {:x}", std::bit_cast<uint32_t>(seen));
            }
        text += '\n';
    }
    return text;
}

void Fp8History::restore(const std::string& text, const std::string& where, Stream& stream) {
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
    std::vector<float> rows(length * tensors(), 0.0f);
    for (size_t line = 0; line < weights; ++line) {
        in >> name;
        require(in && numbers_.contains(name),
                fmt::format("names '{}', which is no weight of the model", name));
        for (size_t step = 0; step < steps; ++step)
            for (size_t role = 0; role < fp8_roles; ++role) {
                uint32_t bits = 0;
                in >> std::hex >> bits;
                require(in && bits < 0x7f800000u,
                        fmt::format("has no magnitude where {} needs one", name));
                rows[step * tensors() + numbers_.at(name) * fp8_roles + role] =
                    std::bit_cast<float>(bits);
            }
    }
    const auto count = static_cast<int64_t>(steps);
    stream.copy(rows_.out().data, rows.data(), rows.size() * sizeof(float));
    stream.copy(count_.out().data, &count, sizeof(count));
    stream.synchronize();  // what is copied is gone at the end
}

// --- scaling ------------------------------------------------------------------------------------

DelayedScaling::DelayedScaling(const Memory& memory, bool keeps_weights, Fp8History history)
    : CurrentScaling(memory.weights, keeps_weights),
      late_(memory.late),
      history_(std::move(history)) {
    const auto tensors = static_cast<int64_t>(history_.tensors());
    scales_ = Tensor::empty({tensors}, DType::f32, memory.weights);
    largest_ = Tensor::empty({tensors}, DType::f32, memory.weights);
    words_ = Tensor::empty({tensors + 1}, DType::i64, memory.weights);
    lasts_ = Tensor::empty({1}, DType::i64, memory.weights);
}

void DelayedScaling::begin_step(Stream& stream) {
    CurrentScaling::begin_step(stream);
    history_.scales(scales_.out(), lasts_.out(), stream);
    stream.set_zero(largest_.out().data, largest_.in().bytes());
    Told& told = told_.emplace_back();
    told.step = ++step_;
    told.lasts = Tensor::empty({1}, DType::i64, late_);
    stream.copy(told.lasts.data<int64_t>(), lasts_.in().data, sizeof(int64_t));
    told.event = stream.record();
    learn();
    all_are_known_ = step_ <= known_until_;
}

/// Of the steps whose word has arrived. Each step since then has forgotten one row at most, so that
/// later words only say that more is known.
void DelayedScaling::learn() {
    while (!told_.empty() && (!told_.front().event || told_.front().event->is_done())) {
        const int64_t lasts = std::as_const(told_.front().lasts).data<int64_t>()[0];
        known_until_ = lasts < 0 ? -1 : told_.front().step + lasts;
        told_.pop_front();
    }
}

Tensor& DelayedScaling::step_words(Stream& stream) {
    kernels::fp8_history_words(words_.out(), largest_.in(), stream);
    return words_;
}

void DelayedScaling::push(ConstView outcome, Stream& stream) {
    history_.push(words_.in(), outcome, stream);
}

void DelayedScaling::restore(const std::string& text, const std::string& where, Stream& stream) {
    history_.restore(text, where, stream);
    told_.clear();  // the stream has been waited for
    known_until_ = -1;
}

CurrentScaling::Scale DelayedScaling::known_scale(const Parameter& weight, Fp8Role role) {
    const auto row = static_cast<int64_t>(history_.index_of(weight.name(), role));
    const Tensor scale = scales_.rows(row, row + 1);
    Tensor largest = largest_.rows(row, row + 1);
    if (all_are_known_) return {.value = scale, .largest = largest.out()};
    return {.chosen = scale.in(), .largest = largest.out()};
}

}  // namespace plinth::core
