// SPDX-License-Identifier: Apache-2.0
#include "launch/stage_state.h"

#include <algorithm>
#include <limits>

namespace plinth::launch {

using core::Parameter;
using core::models::Chunk;
using core::optim::MasterWeights;
using parallel::LaneReducer;

namespace {

template <typename T, typename More>
void append(std::vector<T>& all, const More& more) {
    all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

std::array<std::vector<Parameter*>, 3> reducer_parts(
    const Chunk& chunk, const std::function<bool(const Parameter&)>& is_shared) {
    std::array<std::vector<Parameter*>, 3> parts;
    auto& [forward, shared, rest] = parts;
    forward = chunk.forward_parameters;
    for (Parameter* parameter : chunk.parameters) {
        if (std::ranges::find(forward, parameter) != forward.end()) continue;
        (is_shared(*parameter) ? shared : rest).push_back(parameter);
    }
    return parts;
}

StageState::StageState(std::span<const Chunk> chunks, parallel::Communicator& data,
                       const Allocators& allocators, Stream& stream, const Options& options)
    : is_pipeline_(options.is_pipeline) {
    parallel::LaneReducerConfig config = options.reducer;
    if (is_pipeline_) config.in_flight = std::numeric_limits<int>::max();
    const auto add = [&](const std::vector<Parameter*>& parameters, Part part) {
        if (parameters.empty()) return;
        if (!parts_.empty())
            part.communicator =
                data.split(0, fmt::format("{}, gradients {}", data.name(), parts_.size()));
        part.reducer =
            std::make_unique<LaneReducer>(parameters, part.communicator ? *part.communicator : data,
                                          allocators.gradients, stream, config);
        part.weights = parallel::make_weights(
            parameters, part.reducer->layout(), data, allocators.weights, stream,
            {.zero = options.zero,
             .compute = options.compute,
             .offload = options.offload,
             .before_gather = [reducer = part.reducer.get()] { reducer->start_finished(); }});
        parts_.push_back(std::move(part));
    };
    for (size_t c = 0; c < chunks.size(); ++c) {
        if (!is_pipeline_) {  // the backward pass of a slot follows its forward pass
            add(chunks[c].parameters, {.chunk = c, .begins_forward = true, .ends_forward = false});
            continue;
        }
        const auto [forward, shared, rest] = reducer_parts(chunks[c], options.is_shared);
        add(forward, {.chunk = c, .begins_forward = true, .ends_forward = true});
        add(shared, {.chunk = c});
        add(rest, {.chunk = c});
    }
}

// --- gradients ----------------------------------------------------------------------------------

void StageState::begin_step(const parallel::LanePlan& plan) {
    plan_ = plan;
    micro_batches_ = 0;
    gradients_.clear();
    owned_.clear();
    for (Part& part : parts_) {
        part.traffic_before = part.weights->traffic();
        part.reducer->begin_step(plan);
    }
}

void StageState::begin_forward(size_t chunk, int64_t slot) {
    for (Part& part : parts_) {
        if (part.chunk != chunk || !part.begins_forward) continue;
        // Weights that are gathered for a pass have one micro-batch a round; no pipeline has them.
        if (!is_pipeline_) part.weights->begin_micro_batch(plan_.lanes_in(micro_batches_++));
        part.reducer->begin_slot(slot);
    }
}

void StageState::end_forward(size_t chunk) {
    for (Part& part : parts_)
        if (part.chunk == chunk && part.ends_forward) part.reducer->end_slot();
}

void StageState::begin_backward(size_t chunk, int64_t slot) {
    for (Part& part : parts_)
        if (part.chunk == chunk && !part.begins_forward) part.reducer->begin_slot(slot);
}

void StageState::end_backward(size_t chunk) {
    for (Part& part : parts_) {
        if (part.chunk != chunk || part.ends_forward) continue;
        part.reducer->end_slot();
        if (!is_pipeline_) part.weights->end_micro_batch();
    }
}

void StageState::slot_was_launched(int64_t slot) {
    for (Part& part : parts_) {
        part.reducer->slot_was_launched(slot);
        ++micro_batches_;
    }
}

void StageState::complete_exchanges() {
    for (Part& part : parts_)
        part.reducer->complete_exchanges();
}

void StageState::progress() {
    for (Part& part : parts_)
        part.reducer->progress();
}

void StageState::finish(const LaneReducer::OwnedHook& before_uses_add) {
    for (Part& part : parts_) {
        if (!is_pipeline_)
            for (; micro_batches_ < plan_.rounds(); ++micro_batches_)
                part.weights->join_micro_batch(plan_.lanes_in(micro_batches_));
        part.reducer->finish(before_uses_add);
        part.weights->settle();
        append(gradients_, part.reducer->gradients());
        append(owned_, part.reducer->owned());
    }
}

// --- weights ------------------------------------------------------------------------------------

std::vector<MasterWeights> StageState::masters() const {
    std::vector<MasterWeights> all;
    for (const Part& part : parts_)
        append(all, part.weights->masters());
    return all;
}

void StageState::masters_changed() {
    for (Part& part : parts_)
        part.weights->masters_changed();
}

void StageState::settle() {
    for (Part& part : parts_)
        part.weights->settle();
}

std::vector<core::StateTensor> StageState::replicas() {
    std::vector<core::StateTensor> all;
    for (Part& part : parts_)
        append(all, part.weights->replicas());
    return all;
}

LaneReducer::Statistics StageState::statistics() const {
    LaneReducer::Statistics sum;
    for (const Part& part : parts_) {
        const LaneReducer::Statistics& more = part.reducer->statistics();
        const parallel::Weights::Traffic weights = part.weights->traffic();
        sum.bytes += more.bytes;
        sum.bytes_hidden += more.bytes_hidden;
        sum.bytes_sent += more.bytes_sent + weights.bytes_sent - part.traffic_before.bytes_sent;
        sum.seconds_waiting +=
            more.seconds_waiting + weights.seconds_waiting - part.traffic_before.seconds_waiting;
    }
    return sum;
}

}  // namespace plinth::launch
