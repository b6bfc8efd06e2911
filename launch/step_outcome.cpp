// SPDX-License-Identifier: Apache-2.0
#include "launch/step_outcome.h"

#include <algorithm>
#include <utility>

#include "core/optim/grad_norm.h"

namespace plinth::launch {

using core::Tensor;
using kernels::StepWord;
using kernels::StepWords;

void StepOutcomes::begin_step(int64_t slots) {
    CHECK(pending_.size() <= size_t{kernels::StepTerms::most_ahead},
          "a step beside {} whose outcome nobody took", pending_.size());
    if (!outcome_.defined()) {
        outcome_ = Tensor::empty({StepWord::count}, DType::f64, memory_.steps);
        terms_ = Tensor::empty({2, kernels::adamw_words}, DType::f32, memory_.steps);
        began_ = Tensor::empty({1}, DType::i64, memory_.steps);
        once_ = Tensor::of(std::vector<int64_t>{1}, {1}, memory_.steps, stream_);
    }
    places_ = {.slots = slots, .parts = share_.parts, .ranks = world_.size()};
    if (!words_.defined() || words_.elements() != places_.count())
        words_ = Tensor::empty({places_.count()}, DType::i64, memory_.steps);
    stream_.set_zero(word(0), words_.in().bytes());  // what other ranks give
    kernels::mark_time(began_.out(), {}, stream_);
}

void StepOutcomes::add(int64_t slot, const core::ops::Loss& loss) {
    if (!share_.is_given) return;
    int64_t* const given = word(places_.at(slot, share_.part));
    const auto put = [&](int place, const Tensor& number) {
        stream_.copy(given + place, number.in().data, sizeof(int64_t));
    };
    put(StepWords::sum, loss.sum);
    put(StepWords::cross_entropy, loss.cross_entropy);
    put(StepWords::weight, loss.weight);
    put(StepWords::times, once_);
}

void StepOutcomes::end_passes() {
    const int64_t place = places_.busy(world_.rank());
    kernels::mark_time(words_.rows(place, place + 1).out(), began_.in(), stream_);
}

void StepOutcomes::update(const Update& update, core::optim::AdamW& optimizer) {
    if (updates_to_write_) {
        stream_.copy(outcome_.out().as<double>() + StepWord::updates, &*updates_to_write_,
                     sizeof(double));
        updates_to_write_.reset();
    }
    if (arena_) {
        launch(update, optimizer);
    } else {
        decide(core::optim::sum_of_squares(update.squared, memory_.steps, stream_), update,
               optimizer);
        optimizer.step_as_decided(update.gradients, terms_, update.number, stream_);
    }
    Pending& pending = pending_.emplace_back();
    pending.words = Tensor::empty({StepWord::count}, DType::f64, memory_.outcomes);
    stream_.copy(pending.words.data<double>(), outcome_.in().data, sizeof(Words));
    pending.event = stream_.record();
}

void StepOutcomes::decide(const Tensor& squares, const Update& update,
                          const core::optim::AdamW& optimizer) {
    stream_.copy(word(places_.squares()), squares.in().data, squares.in().bytes());
    world_.all_reduce("losses and norm", std::span(word(0), static_cast<size_t>(places_.count())),
                      parallel::Reduce::sum);
    kernels::decide_step(outcome_.out(), terms_.out(), words_.in(), places_,
                         optimizer.terms(update.learning_rate, update.clip), update.fp8_largest,
                         stream_);
}

/// What differs from step to step is an argument of one kernel only, which stays outside: between
/// two graphs. The step's own number lies in memory.
void StepOutcomes::launch(const Update& update, core::optim::AdamW& optimizer) {
    std::vector<const void*> at;
    for (const auto gradients : {update.squared, update.gradients})
        for (const core::optim::ParameterGradient& each : gradients)
            at.push_back(each.gradient.data);
    UpdateGraphs& graphs = graphs_[std::move(at)];
    const auto sum = [&] { return core::optim::sum_of_squares(update.squared, *arena_, stream_); };
    const auto step = [&] {
        optimizer.step_as_decided(update.gradients, terms_, update.number, stream_);
    };
    if (!graphs.has_run) {
        graphs.has_run = true;
        const Tensor squares = sum();
        // Outside of the arena, in which nothing may stay; see MicroBatchGraphs.
        graphs.squares = Tensor::empty(squares.shape(), squares.dtype(), memory_.steps);
        decide(squares, update, optimizer);
        step();
        return;
    }
    if (!graphs.sum) {
        graphs.sum = stream_.capture([&] {
            const Tensor squares = sum();
            stream_.copy(graphs.squares.out().data, squares.in().data, squares.in().bytes());
        });
        graphs.update = stream_.capture(step);
    }
    graphs.sum->launch();
    decide(graphs.squares, update, optimizer);
    graphs.update->launch();
}

std::optional<StepOutcomes::Words> StepOutcomes::take(bool waits) {
    if (pending_.empty()) return std::nullopt;
    Pending& first = pending_.front();
    if (!waits && first.event && !first.event->is_done()) return std::nullopt;
    stream_.synchronize(first.event.get());  // where it is done, for what kernels report
    Words words{};
    std::copy_n(std::as_const(first.words).data<double>(), words.size(), words.begin());
    pending_.pop_front();
    CHECK(words[StepWord::updates] != StepWord::other_count,
          "the device has counted other updates than the host");
    CHECK(words[StepWord::updates] != StepWord::other_losses,
          "a micro-batch's loss was given by no rank, or by several");
    return words;
}

void StepOutcomes::set_update_count(int64_t count) {
    CHECK(pending_.empty(), "{} updates while {} steps are under way", count, pending_.size());
    updates_to_write_ = static_cast<double>(count);
}

}  // namespace plinth::launch
