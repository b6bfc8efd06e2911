// SPDX-License-Identifier: Apache-2.0
#include "launch/micro_batch_graphs.h"

#include <algorithm>
#include <utility>

namespace plinth::launch {

using core::Batch;
using core::Tensor;

KeptMemory::~KeptMemory() {
    for (const auto& [block, bytes] : blocks_)
        source_.free(block, bytes);
}

void* KeptMemory::allocate(size_t bytes) {
    return blocks_.emplace_back(source_.allocate(bytes), bytes).first;
}

MicroBatchKind MicroBatchKind::of(const Batch& batch, int64_t slot,
                                  const parallel::LanePlan& plan) {
    const int64_t lane = plan.lane_of_slot(slot);
    return {.samples = batch.samples(),
            .length = batch.length(),
            .has_documents = batch.document_ids.defined(),
            .begins_lane = slot == plan.lane_begin(lane),
            .ends_lane = slot + 1 == plan.lane_begin(lane + 1),
            .is_first_lane = lane == 0,
            .is_only_lane = plan.rounds() == 1};
}

/// Where the graphs of its shape read it.
const Batch& MicroBatchGraphs::put(const Batch& batch) {
    const Extents extents{batch.samples(), batch.length(), batch.document_ids.defined()};
    Batch& input = inputs_[extents];
    const std::pair<const Tensor*, Tensor*> tensors[] = {{&batch.tokens, &input.tokens},
                                                         {&batch.targets, &input.targets},
                                                         {&batch.positions, &input.positions},
                                                         {&batch.document_ids, &input.document_ids},
                                                         {&batch.sample_ids, &input.sample_ids}};
    for (const auto& [from, to] : tensors) {
        if (!from->defined()) continue;
        if (!to->defined()) *to = Tensor::empty(from->shape(), from->dtype(), arena_);
        CHECK(from->shape() == to->shape() && from->is_contiguous(),
              "a micro-batch of shape {} for the graph of {}", from->shape().text(),
              to->shape().text());
        stream_.copy(to->out().data, from->in().data, from->in().bytes());
    }
    input.slice = batch.slice;
    input.part = batch.part;
    return input;
}

core::ops::Loss MicroBatchGraphs::run(const MicroBatchKind& kind, const Batch& batch,
                                      const Pass& pass, const Replayed& replayed) {
    const Batch& input = put(batch);
    Entry& entry = entries_[kind];
    if (!entry.has_run) {
        entry.has_run = true;
        return pass(input);
    }
    if (entry.graph) {
        replayed();
    } else {
        entry.graph = stream_.capture([&] { entry.loss = pass(input); });
    }
    entry.graph->launch();
    ++launches_;
    return entry.loss;
}

size_t MicroBatchGraphs::graphs() const {
    return static_cast<size_t>(std::ranges::count_if(
        entries_, [](const auto& entry) { return entry.second.graph != nullptr; }));
}

}  // namespace plinth::launch
