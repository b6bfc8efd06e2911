// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "core/nn/batch.h"
#include "core/ops/cross_entropy.h"
#include "kernels/runtime/graph.h"
#include "kernels/runtime/stream.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::launch {

/// Gives nothing back before its end: graphs know the addresses.
class KeptMemory final : public MemorySource {
  public:
    explicit KeptMemory(MemorySource& source) : source_(source) {}
    ~KeptMemory() override;
    Device device() const override { return source_.device(); }
    void* allocate(size_t bytes) override;
    void free(void*, size_t) override {}
    bool takes_back() const override { return false; }
    size_t available() const override { return source_.available(); }
    MemoryHolders& holders() override { return source_.holders(); }
    void set_zero(void* data, size_t bytes) override { source_.set_zero(data, bytes); }

  private:
    MemorySource& source_;
    std::vector<std::pair<void*, size_t>> blocks_;
};

/// What tells the work of one micro-batch from that of another, beside what its tensors hold.
struct MicroBatchKind {
    int64_t samples = 0, length = 0;
    bool has_documents = false;
    bool begins_lane = false;    ///< its gradients overwrite, others are added
    bool ends_lane = false;      ///< the lane is added to the total, or leaves for other ranks
    bool has_exchanges = false;  ///< it leaves while its last gradients are made: never captured
    bool is_first_lane = false;  ///< and overwrites it
    bool is_only_lane = false;   ///< and is the total
    /// With train.fp8=delayed: the graph takes scales from the history without asking whether it
    /// has them; see core::DelayedScaling::all_are_known.
    bool scales_are_known = false;

    static MicroBatchKind of(const core::Batch& batch, int64_t slot,
                             const parallel::LanePlan& plan);
    auto operator<=>(const MicroBatchKind&) const = default;
};

/// Graphs of whole micro-batches: forward and backward pass and the sum of gradients. One that
/// exchanges its gradients with other ranks is computed as ever, in the arena too. Of others the
/// first of a kind is computed as ever, which makes the libraries choose and fills the arena; the
/// second is captured; from then on its graph is launched.
///
/// A graph reads its micro-batch where the first one of its shape lay, and all it makes lies in the
/// arena, at the same addresses each time. Nothing in there outlives a micro-batch, so that graphs
/// share its memory, and the capture of a kind finds the blocks free that its first micro-batch
/// had: while work is captured, a device gives no new ones.
class MicroBatchGraphs {
  public:
    /// `stream` and `lasting`, where micro-batches and losses stay, must outlive it.
    MicroBatchGraphs(Stream& stream, MemorySource& source, CachingAllocator& lasting)
        : stream_(stream),
          lasting_(lasting),
          memory_(source),
          arena_(memory_, CachingAllocator::Rounding::sizes, "tensors of graphs") {}

    /// For the tensors of a micro-batch, and for nothing that outlives it.
    CachingAllocator& arena() { return arena_; }
    const CachingAllocator& arena() const { return arena_; }

    /// Computes: gives the stream the work, and the host its part of it.
    using Pass = std::function<core::ops::Loss(const core::Batch& batch)>;
    /// The host's part alone, where the work comes from a graph.
    using Replayed = std::function<void()>;
    /// The micro-batch's loss, valid until the next one.
    core::ops::Loss run(const MicroBatchKind& kind, const core::Batch& batch, const Pass& pass,
                        const Replayed& replayed);

    size_t graphs() const;
    int64_t launches() const { return launches_; }

  private:
    struct Entry {
        bool has_run = false;
        std::unique_ptr<Graph> graph;
        core::ops::Loss loss;  ///< where the graph leaves it
    };
    using Extents = std::tuple<int64_t, int64_t, bool>;

    const core::Batch& put(const core::Batch& batch);
    core::ops::Loss like(const core::ops::Loss& loss);
    void copy(core::ops::Loss& to, const core::ops::Loss& from);

    Stream& stream_;
    CachingAllocator& lasting_;
    KeptMemory memory_;
    CachingAllocator arena_;
    std::map<Extents, core::Batch> inputs_;
    std::map<MicroBatchKind, Entry> entries_;
    int64_t launches_ = 0;
};

}  // namespace plinth::launch
