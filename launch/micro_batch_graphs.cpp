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
    const bool is_alone = plan.ranks == 1, ends_lane = slot + 1 == plan.lane_begin(lane + 1);
    return {.samples = batch.samples(),
            .length = batch.length(),
            .has_documents = batch.document_ids.defined(),
            .begins_lane = slot == plan.lane_begin(lane),
            .ends_lane = ends_lane,
            .has_exchanges = ends_lane && !is_alone,
            // Beside others totals come with exchanges, which no graph has.
            .is_first_lane = is_alone && lane == 0,
            .is_only_lane = is_alone && plan.rounds() == 1};
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
        if (!to->defined()) *to = Tensor::empty(from->shape(), from->dtype(), lasting_);
        CHECK(from->shape() == to->shape() && from->is_contiguous(),
              "a micro-batch of shape {} for the graph of {}", from->shape().text(),
              to->shape().text());
        stream_.copy(to->out().data, from->in().data, from->in().bytes());
    }
    input.slice = batch.slice;
    input.part = batch.part;
    return input;
}

namespace {

constexpr Tensor core::ops::Loss::*parts_of_loss[] = {
    &core::ops::Loss::sum, &core::ops::Loss::cross_entropy, &core::ops::Loss::weight,
    &core::ops::Loss::correct};

}  // namespace

core::ops::Loss MicroBatchGraphs::like(const core::ops::Loss& loss) {
    core::ops::Loss made;
    for (const auto part : parts_of_loss)
        if ((loss.*part).defined())
            made.*part = Tensor::empty((loss.*part).shape(), (loss.*part).dtype(), lasting_);
    return made;
}

void MicroBatchGraphs::copy(core::ops::Loss& to, const core::ops::Loss& from) {
    for (const auto part : parts_of_loss)
        if ((from.*part).defined())
            stream_.copy((to.*part).out().data, (from.*part).in().data, (from.*part).in().bytes());
}

core::ops::Loss MicroBatchGraphs::run(const MicroBatchKind& kind, const Batch& batch,
                                      const Pass& pass, const Replayed& replayed) {
    CHECK(arena_.use().in_use == 0, "{} bytes of graphs are in use between micro-batches",
          arena_.use().in_use);
    const Batch& input = put(batch);
    Entry& entry = entries_[kind];
    if (!entry.has_run || kind.has_exchanges) {
        const core::ops::Loss loss = pass(input);
        if (!entry.has_run) entry.loss = like(loss);
        entry.has_run = true;
        copy(entry.loss, loss);
        return entry.loss;
    }
    if (entry.graph) {
        replayed();
    } else {
        entry.graph = stream_.capture([&] { copy(entry.loss, pass(input)); });
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
