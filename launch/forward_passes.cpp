// SPDX-License-Identifier: Apache-2.0
#include "launch/forward_passes.h"

#include <optional>
#include <vector>

#include "launch/micro_batch.h"

namespace plinth::launch {

using parallel::Axis;

ForwardPasses::ForwardPasses(core::models::Model& model, const parallel::Groups& groups,
                             Session& session, const Options& options)
    : model_(model),
      groups_(groups),
      session_(session),
      options_(options),
      pipeline_(options.schedule, groups.along(Axis::pipeline), session.allocator()) {}

void ForwardPasses::run(int64_t first, int64_t end, const Load& load, const OnLoss& on_loss) {
    if (first == end) return;
    // All ranks make the same number of passes, since a layout may gather weights meanwhile: one
    // without a micro-batch repeats another's, which is not counted.
    std::vector<std::optional<int64_t>> mine;
    for (int64_t at = first; at < end; at += groups_.size(Axis::data))
        mine.emplace_back(at + groups_.coordinate(Axis::data));
    const auto batch = [&](int64_t number) {
        const parallel::PhaseMark reading(session_.activity(), parallel::Phase::data);
        const core::data::MicroBatch loaded = load(first + (number - first) % (end - first));
        return share_tokens(to_batch(loaded, options_.document_mask, session_), groups_, session_);
    };
    const std::vector<core::models::Phase> phases = model_.phases();
    LossReader losses(session_, &groups_.along(Axis::context));
    pipeline_.run({.chunks = phases.front().chunks,
                   .slots = mine,
                   .scope = session_.scope(options_.dtype),
                   .batch = batch,
                   .on_loss = losses.collector()});
    for (const ReadLoss& loss : losses.read())
        if (loss.slot < end && groups_.speaks_for_slot()) on_loss(loss);
}

}  // namespace plinth::launch
