// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_choices.h"

#include <algorithm>

#include "launch/plan_shares.h"

namespace plinth::launch {

namespace {

int64_t slots_of(const RunConfig& config) {
    return config.train.global_batch / config.train.micro_batch;
}

int64_t data_ranks_of(const MemoryChoice& choice) {
    const ParallelSection& parallel = choice.config.parallel;
    return choice.ranks / (parallel.tensor * parallel.pipeline * parallel.context);
}

/// With as many lanes as its ZeRO stage and its ranks ask for.
MemoryChoice with_lanes(MemoryChoice choice) {
    TrainSection& train = choice.config.train;
    train.lanes = choice.config.parallel.zero >= 2 ? slots_of(choice.config)
                                                   : std::max(train.lanes, data_ranks_of(choice));
    return choice;
}

std::vector<MemoryChoice> smaller_micro_batches(const MemoryChoice& from) {
    std::vector<MemoryChoice> levels;
    for (int64_t size = from.config.train.micro_batch / 2; size >= 1; size /= 2) {
        if (from.config.train.global_batch % size != 0) continue;
        MemoryChoice choice = from;
        choice.config.train.micro_batch = size;
        levels.push_back(with_lanes(choice));
    }
    return levels;
}

std::vector<MemoryChoice> more_recompute(const MemoryChoice& from) {
    std::vector<MemoryChoice> levels;
    for (const Recompute recompute : {Recompute::norms, Recompute::selective, Recompute::full}) {
        if (recompute <= from.config.train.recompute) continue;
        MemoryChoice choice = from;
        choice.config.train.recompute = recompute;
        levels.push_back(choice);
    }
    return levels;
}

std::vector<MemoryChoice> offloaded_activations(const MemoryChoice& from) {
    if (!is_on_gpu(from.config) || from.config.train.offload_activations) return {};
    MemoryChoice choice = from;
    choice.config.train.recompute = Recompute::full;
    choice.config.train.offload_activations = true;
    return {choice};
}

std::vector<MemoryChoice> narrow_moments(const MemoryChoice& from) {
    MemoryChoice choice = from;
    choice.config.optimizer.moments = ComputeType::bf16;
    return {choice};
}

std::vector<MemoryChoice> fewer_lanes(const MemoryChoice& from) {
    if (from.config.parallel.zero >= 2) return {};
    MemoryChoice choice = from;
    choice.config.train.lanes = data_ranks_of(from);
    return {choice};
}

std::vector<MemoryChoice> higher_zero(const MemoryChoice& from) {
    std::vector<MemoryChoice> levels;
    if (data_ranks_of(from) == 1) return levels;
    for (int64_t zero = from.config.parallel.zero + 1; zero <= 3; ++zero) {
        MemoryChoice choice = from;
        choice.config.parallel.zero = zero;
        levels.push_back(with_lanes(choice));
    }
    return levels;
}

std::vector<MemoryChoice> offloaded_states(const MemoryChoice& from) {
    if (!is_on_gpu(from.config)) return {};
    MemoryChoice choice = from;
    choice.config.optimizer.offload = OptimizerOffload::states;
    return {choice};
}

/// Ranks beyond this are not tried: a plan looks at each of them.
constexpr int64_t most_ranks = 1024;

/// More ranks that share a copy of the model along one axis.
template <int64_t ParallelSection::*axis>
std::vector<MemoryChoice> more_ranks_along(const MemoryChoice& from) {
    std::vector<MemoryChoice> levels;
    for (int64_t times = 2; times <= 8 && times * from.ranks <= most_ranks; times *= 2) {
        MemoryChoice choice = from;
        choice.ranks *= times;
        choice.config.parallel.*axis *= times;
        levels.push_back(choice);
    }
    return levels;
}

}  // namespace

std::vector<MemoryKnob> memory_knobs() {
    return {smaller_micro_batches, more_recompute, offloaded_activations, fewer_lanes,
            narrow_moments,        higher_zero,    offloaded_states};
}

std::vector<MemoryChoice> more_data_ranks(const MemoryChoice& from) {
    constexpr int64_t most = 64;
    std::vector<int64_t> stages = {std::max<int64_t>(from.config.parallel.zero, 1)};
    if (stages.front() < 3) stages.push_back(3);
    std::vector<MemoryChoice> levels;
    for (int64_t times = 2; times <= most && times * from.ranks <= most_ranks; times *= 2)
        for (const int64_t zero : stages) {
            MemoryChoice choice = from;
            choice.ranks *= times;
            if (choice.config.parallel.data != 0) choice.config.parallel.data *= times;
            choice.config.parallel.zero = zero;
            levels.push_back(with_lanes(choice));
        }
    return levels;
}

std::vector<MemoryKnob> model_rank_knobs() {
    return {more_ranks_along<&ParallelSection::context>, more_ranks_along<&ParallelSection::tensor>,
            more_ranks_along<&ParallelSection::pipeline>};
}

bool is_accepted(const MemoryChoice& choice) {
    return !validate(choice.config.train) && !validate_world(choice.config, choice.ranks);
}

std::string words_of(const MemoryChoice& from, const MemoryChoice& to) {
    std::vector<std::string> words;
    const auto add = [&](const char* key, const auto& before, const auto& now,
                         const std::string& text) {
        if (before != now) words.push_back(fmt::format("{}={}", key, text));
    };
    const TrainSection &train = from.config.train, &new_train = to.config.train;
    const ParallelSection &parallel = from.config.parallel, &new_parallel = to.config.parallel;
    add("train.micro_batch", train.micro_batch, new_train.micro_batch,
        std::to_string(new_train.micro_batch));
    // Beside another micro-batch always: where no file names them, they would follow it.
    add("train.lanes", train.micro_batch == new_train.micro_batch ? train.lanes : 0,
        new_train.lanes, std::to_string(new_train.lanes));
    add("train.recompute", train.recompute, new_train.recompute,
        new_train.recompute == Recompute::full        ? "full"
        : new_train.recompute == Recompute::selective ? "selective"
                                                      : "norms");
    add("train.offload_activations", train.offload_activations, new_train.offload_activations,
        "true");
    add("optimizer.moments", from.config.optimizer.moments, to.config.optimizer.moments, "bf16");
    add("optimizer.offload", from.config.optimizer.offload, to.config.optimizer.offload, "states");
    add("parallel.context", parallel.context, new_parallel.context,
        std::to_string(new_parallel.context));
    add("parallel.tensor", parallel.tensor, new_parallel.tensor,
        std::to_string(new_parallel.tensor));
    add("parallel.pipeline", parallel.pipeline, new_parallel.pipeline,
        std::to_string(new_parallel.pipeline));
    add("parallel.data", parallel.data, new_parallel.data, std::to_string(new_parallel.data));
    add("parallel.zero", parallel.zero, new_parallel.zero, std::to_string(new_parallel.zero));
    return fmt::format("{}", fmt::join(words, " "));
}

}  // namespace plinth::launch
