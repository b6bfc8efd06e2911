// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "core/data/loader.h"
#include "core/nn/batch.h"
#include "kernels/runtime/copy_engine.h"

namespace plinth::launch {

/// Loaded micro-batches on their way to the device: through pinned memory, by a copy engine, while
/// the device works on the one before. The host waits for nothing; with several micro-batches at
/// once each keeps its memory until nobody has its tensors any more.
class BatchFeed {
  public:
    struct Memory {
        CachingAllocator& batches;  ///< where the model computes
        CachingAllocator& pinned;   ///< host memory that the copy engine reaches best
    };

    /// Document ids only under a document mask, see to_batch. `stream` is that of the model, and
    /// the engine copies beside it; stream and allocators must outlive the feed.
    BatchFeed(Stream& stream, const Memory& memory, bool document_mask)
        : BatchFeed(memory, document_mask, make_copy_engine(stream)) {}
    BatchFeed(const Memory& memory, bool document_mask, std::unique_ptr<CopyEngine> engine)
        : memory_(memory), document_mask_(document_mask), engine_(std::move(engine)) {}
    /// Waits for copies under way.
    ~BatchFeed();
    BatchFeed(const BatchFeed&) = delete;
    BatchFeed& operator=(const BatchFeed&) = delete;

    /// The micro-batch as tensors that later work of the stream may read. All work on the one
    /// before has been given to the stream, unless its tensors are still held.
    core::Batch operator()(const core::data::MicroBatch& loaded);

  private:
    /// Memory of one micro-batch. Copies may write to it once nobody holds its tensors and the
    /// engine waits for the work that has read them.
    struct Place {
        core::Batch batch;
        bool is_free = false;
        bool is_held() const;
    };
    struct Staged {
        core::Tensor words;                  ///< pinned
        std::unique_ptr<DeviceEvent> event;  ///< null: copied
        bool is_done() const { return !event || event->is_done(); }
    };

    Place& free_place(const core::data::MicroBatch& loaded);
    void copy(core::Batch& batch, const core::data::MicroBatch& loaded);
    void free_places();

    Memory memory_;
    bool document_mask_;
    std::unique_ptr<CopyEngine> engine_;
    std::vector<std::unique_ptr<Place>> places_;
    std::deque<Staged> staged_;  ///< oldest first
};

}  // namespace plinth::launch
