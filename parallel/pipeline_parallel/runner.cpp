// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/runner.h"

#include <algorithm>

#include "kernels/add.h"
#include "kernels/runtime/trace.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Tensor;

namespace {

/// Made where it is read: for a copy of pageable memory the host may have to wait.
Tensor root_gradient() {
    const core::Scope& scope = core::Scope::current();
    Tensor one = scope.empty({1}, DType::f32);
    kernels::fill(one.out(), 1.0f, scope.stream());
    return one;
}

}  // namespace

Schedule forward_part(const Schedule& schedule) {
    Schedule part{.config = schedule.config, .actions = {}};
    for (const std::vector<Action>& list : schedule.actions) {
        std::vector<Action>& kept = part.actions.emplace_back();
        for (const Action& action : list) {
            if (const auto* compute = std::get_if<Compute>(&action)) {
                if (compute->pass == Pass::forward) kept.push_back(action);
                continue;
            }
            Exchange exchange = std::get<Exchange>(action);
            if (exchange.send && exchange.send->payload == Payload::gradient) exchange.send = {};
            if (exchange.receive && exchange.receive->payload == Payload::gradient)
                exchange.receive = {};
            if (exchange.send || exchange.receive) kept.emplace_back(exchange);
        }
    }
    return part;
}

void PipelineRunner::run(const PipelineStep& step) {
    CHECK(group_.size() == config_.stages && step.chunks.size() == size_t(config_.chunks),
          "{} chunks on each of {} ranks for {} stages of {}", step.chunks.size(), group_.size(),
          config_.stages, config_.chunks);
    if (schedule_.config.micro_batches != static_cast<int>(step.slots.size()) ||
        schedule_.actions.empty()) {
        config_.micro_batches = static_cast<int>(step.slots.size());
        schedule_ = make_schedule(config_);
    }
    step_ = &step;
    next_batch_ = 0;
    peak_ = 0;
    const Schedule forward = trains() ? Schedule{} : forward_part(schedule_);
    const Schedule& schedule = trains() ? schedule_ : forward;
    for (const Action& action : schedule.actions[static_cast<size_t>(group_.rank())])
        act(action);
    finish_sends();
    CHECK(incoming_.empty() && ready_.empty() && flights_.empty(),
          "stage {}: {} tensors received, {} made and {} micro-batches left at the end of a step",
          group_.rank(), incoming_.size(), ready_.size(), flights_.size());
    batches_.clear();
    step_ = nullptr;
}

void PipelineRunner::act(const Action& action) {
    if (const auto* pass = std::get_if<Compute>(&action)) return compute(*pass);
    const auto& [send, receive] = std::get<Exchange>(action);
    if (receive && !is_left_out(receive->micro_batch)) start_receive(*receive);
    if (send && !is_left_out(send->micro_batch)) start_send(*send);
}

void PipelineRunner::compute(const Compute& compute) {
    const int micro_batch = compute.micro_batch, chunk = compute.chunk;
    if (is_left_out(micro_batch)) return;
    std::optional<PhaseMark> mark;
    if (step_->activity)
        mark.emplace(*step_->activity,
                     compute.pass == Pass::forward ? Phase::forward : Phase::backward);
    const TraceRange range(compute.pass == Pass::forward ? "forward" : "backward");
    switch (compute.pass) {
        case Pass::forward:
            forward(micro_batch, chunk);
            break;
        case Pass::backward:
            backward(micro_batch, chunk, nullptr);
            break;
        case Pass::input_grad:
            backward(micro_batch, chunk, &flights_.at({chunk, micro_batch})->later);
            break;
        case Pass::weight_grad:
            weight_half(micro_batch, chunk);
            break;
    }
    const bool is_done = compute.pass == Pass::backward || compute.pass == Pass::weight_grad;
    if (is_done && chunk == 0 && step_->after_micro_batch) step_->after_micro_batch();
    progress();
}

// --- passes -------------------------------------------------------------------------------------

core::Scope::Settings PipelineRunner::scope(core::Tape* tape) const {
    core::Scope::Settings settings = step_->scope;
    settings.tape = tape;
    return settings;
}

const core::Batch& PipelineRunner::batch_of(int micro_batch) {
    for (; next_batch_ <= micro_batch; ++next_batch_)
        if (!is_left_out(next_batch_))
            batches_.emplace(next_batch_, step_->batch(slot_of(next_batch_)));
    return batches_.at(micro_batch);
}

void PipelineRunner::forward(int micro_batch, int number) {
    const core::Batch& batch = batch_of(micro_batch);
    auto flight = std::make_unique<Flight>();
    Tensor input;
    if (!is_first(number)) {
        input = take({Payload::activation, number, micro_batch});
        if (trains()) flight->tape.watch(input);
        flight->input = input.edge();
    }
    const core::Scope scope(this->scope(trains() ? &flight->tape : nullptr));
    if (trains()) step_->gradients->begin_forward(size_t(number), slot_of(micro_batch));
    if (is_last(number)) {
        const core::ops::Loss loss = chunk(number).loss(batch, input);
        flight->output = loss.sum.edge();
        step_->on_loss(slot_of(micro_batch), loss);
    } else {
        Tensor y = chunk(number).forward(batch, input);
        flight->output = y.edge();
        flight->output_shape = y.shape();
        ready_.emplace(Key{Payload::activation, number, micro_batch}, y.detach());
    }
    if (trains()) {
        step_->gradients->end_forward(size_t(number));
        flights_.emplace(std::pair(number, micro_batch), std::move(flight));
        peak_ = std::max(peak_, static_cast<int>(flights_.size()));
    }
    if (number == config_.chunks - 1) batches_.erase(micro_batch);
}

void PipelineRunner::backward(int micro_batch, int number, core::WeightHalves* later) {
    Flight& flight = *flights_.at({number, micro_batch});
    const core::Scope scope(this->scope(&flight.tape));
    Tensor gradient =
        is_last(number) ? root_gradient() : take({Payload::gradient, number, micro_batch});
    if (!later) step_->gradients->begin_backward(size_t(number), slot_of(micro_batch));
    std::vector<core::Root> roots;
    roots.emplace_back(flight.output, std::move(gradient));
    const bool has_input = !is_first(number);
    Tensor input;
    input.set_edge(flight.input);
    std::vector<Tensor> dx = flight.tape.backward(
        std::move(roots), {&input, has_input ? size_t{1} : size_t{0}}, [this] { progress(); },
        later);
    if (has_input)
        ready_.emplace(Key{Payload::gradient, number, micro_batch}, std::move(dx.front()));
    if (later) return;
    step_->gradients->end_backward(size_t(number));
    flights_.erase({number, micro_batch});
}

void PipelineRunner::weight_half(int micro_batch, int number) {
    Flight& flight = *flights_.at({number, micro_batch});
    const core::Scope scope(this->scope(nullptr));
    step_->gradients->begin_backward(size_t(number), slot_of(micro_batch));
    flight.later.run([this] { progress(); });
    step_->gradients->end_backward(size_t(number));
    flights_.erase({number, micro_batch});
}

// --- messages -----------------------------------------------------------------------------------

std::string PipelineRunner::label(const Key& key, bool is_output) const {
    const auto [payload, chunk, micro_batch] = key;
    return fmt::format("{} of micro-batch {} before virtual stage {}",
                       payload == Payload::activation ? "activation" : "gradient", micro_batch,
                       config_.virtual_stage(group_.rank(), chunk) + (is_output ? 1 : 0));
}

void PipelineRunner::start_receive(const Message& message) {
    const Key key{message.payload, message.chunk, message.micro_batch};
    const Shape shape = message.payload == Payload::activation
                            ? chunk(message.chunk).input_shape(batch_of(message.micro_batch))
                            : flights_.at({message.chunk, message.micro_batch})->output_shape;
    Parcel& incoming = incoming_[key];
    incoming.tensor = Tensor::empty(shape, step_->scope.compute, allocator_);
    incoming.pending =
        group_.start_receive(label(key, /*is_output=*/message.payload == Payload::gradient),
                             bytes_of(incoming.tensor.out()), message.peer);
}

void PipelineRunner::start_send(const Message& message) {
    const Key key{message.payload, message.chunk, message.micro_batch};
    const auto made = ready_.find(key);
    const std::string name = label(key, /*is_output=*/message.payload == Payload::activation);
    if (sending_.size() == sends_in_flight) {
        sending_.front().pending.wait();
        sending_.erase(sending_.begin());
    }
    CHECK(made != ready_.end(), "stage {}: there is no {} to send", group_.rank(), name);
    Parcel& sending = sending_.emplace_back();
    sending.tensor = std::move(made->second);
    ready_.erase(made);
    CHECK(sending.tensor.is_contiguous() && sending.tensor.dtype() == step_->scope.compute,
          "{}: a strided tensor, or of another dtype than the activations", name);
    sending.pending =
        group_.start_send(name, bytes_of(std::as_const(sending.tensor).in()), message.peer);
}

Tensor PipelineRunner::take(const Key& key) {
    const auto found = incoming_.find(key);
    CHECK(found != incoming_.end(), "stage {}: the tensor of micro-batch {} was not received",
          group_.rank(), std::get<2>(key));
    found->second.pending.wait();
    Tensor tensor = std::move(found->second.tensor);
    incoming_.erase(found);
    return tensor;
}

void PipelineRunner::progress() {
    if (trains()) step_->gradients->progress();
    if (sending_.empty() && incoming_.empty()) return;
    group_.progress();
    std::erase_if(sending_, [](Parcel& sending) { return sending.pending.test(); });
    for (auto& [key, incoming] : incoming_)
        incoming.pending.test();
}

void PipelineRunner::finish_sends() {
    for (Parcel& sending : sending_)
        sending.pending.wait();
    sending_.clear();
}

}  // namespace plinth::parallel
