// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/compute_order.h"

#include <algorithm>

namespace plinth::parallel {

namespace {

std::vector<Compute> gpipe(int micro_batches) {
    std::vector<Compute> order;
    for (int i = 0; i < micro_batches; ++i)
        order.push_back({Pass::forward, i, 0});
    for (int i = 0; i < micro_batches; ++i)
        order.push_back({Pass::backward, i, 0});
    return order;
}

/// `ahead` forward passes, then one forward and one backward pass in turns, then what is left of
/// the backward passes.
std::vector<Compute> in_turns(const std::vector<Compute>& forwards,
                              const std::vector<Compute>& backwards, int ahead) {
    std::vector<Compute> order;
    auto forward = forwards.begin();
    for (; forward != forwards.end() && ahead > 0; --ahead)
        order.push_back(*forward++);
    for (const Compute& backward : backwards) {
        if (forward != forwards.end()) order.push_back(*forward++);
        order.push_back(backward);
    }
    return order;
}

/// `ahead`: the forward passes of a micro-batch and its gradient's way back pass all later stages,
/// so that a stage needs one micro-batch under way for each of them.
std::vector<Compute> one_f_one_b(int stages, int micro_batches, int stage) {
    std::vector<Compute> forwards, backwards;
    for (int i = 0; i < micro_batches; ++i) {
        forwards.push_back({Pass::forward, i, 0});
        backwards.push_back({Pass::backward, i, 0});
    }
    return in_turns(forwards, backwards, stages - 1 - stage);
}

std::vector<Compute> interleaved(const ScheduleConfig& config, int stage) {
    const int groups = std::max(1, config.micro_batches / config.stages);
    std::vector<Compute> forwards, backwards;
    int largest = 0;
    for (int group = 0, first = 0; group < groups; ++group) {
        const int size =
            config.micro_batches / groups + (group < config.micro_batches % groups ? 1 : 0);
        for (int chunk = 0; chunk < config.chunks; ++chunk)
            for (int i = first; i < first + size; ++i) {
                forwards.push_back({Pass::forward, i, chunk});
                backwards.push_back({Pass::backward, i, config.chunks - 1 - chunk});
            }
        first += size;
        largest = std::max(largest, size);
    }
    // Twice the distance to the last stage, because here a stage also feeds the next chunk while it
    // waits for gradients; and the last stage meets its first backward pass in the last chunk.
    const int ahead = 2 * (config.stages - 1 - stage) + (config.chunks - 1) * largest;
    return in_turns(forwards, backwards, ahead);
}

/// As 1F1B, but stage s puts its weight halves off by s micro-batches. Every stage then has P
/// micro-batches between forward pass and weight half, gradients go back through the stages one
/// half at a time, and the weight halves left over fill the end, where 1F1B waits.
std::vector<Compute> zero_bubble_h1(int stages, int micro_batches, int stage) {
    const int ahead = std::min(stages - stage, micro_batches);
    std::vector<Compute> order;
    for (int i = 0; i < ahead; ++i)
        order.push_back({Pass::forward, i, 0});
    for (int i = 0; i < micro_batches; ++i) {
        order.push_back({Pass::input_grad, i, 0});
        if (i >= stage) order.push_back({Pass::weight_grad, i - stage, 0});
        if (i + ahead < micro_batches) order.push_back({Pass::forward, i + ahead, 0});
    }
    for (int i = std::max(0, micro_batches - stage); i < micro_batches; ++i)
        order.push_back({Pass::weight_grad, i, 0});
    return order;
}

}  // namespace

std::vector<Compute> compute_order(const ScheduleConfig& config, int stage) {
    switch (config.kind) {
        case ScheduleKind::gpipe:
            return gpipe(config.micro_batches);
        case ScheduleKind::one_f_one_b:
            return one_f_one_b(config.stages, config.micro_batches, stage);
        case ScheduleKind::interleaved:
            return config.chunks == 1 ? one_f_one_b(config.stages, config.micro_batches, stage)
                                      : interleaved(config, stage);
        case ScheduleKind::zero_bubble_h1:
            return zero_bubble_h1(config.stages, config.micro_batches, stage);
    }
    return {};
}

}  // namespace plinth::parallel
