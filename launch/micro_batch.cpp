// SPDX-License-Identifier: Apache-2.0
#include "launch/micro_batch.h"

#include "parallel/tensor_parallel/tensor_layout.h"

namespace plinth::launch {

core::Batch to_batch(const core::data::MicroBatch& loaded, bool document_mask,
                     CachingAllocator& allocator) {
    static_assert(core::Batch::ignored_target == core::data::kIgnoredTarget);
    const Shape shape{loaded.rows, loaded.length};
    core::Batch batch{.tokens = core::Tensor::of(loaded.inputs, shape, allocator),
                      .targets = core::Tensor::of(loaded.targets, shape, allocator),
                      .positions = core::Tensor::of(loaded.positions, shape, allocator),
                      .document_ids = {},
                      .sample_ids = core::Tensor::of(loaded.sample_ids, {loaded.rows}, allocator)};
    if (document_mask) batch.document_ids = core::Tensor::of(loaded.document_ids, shape, allocator);
    return batch;
}

core::Batch share_tokens(core::Batch batch, const parallel::Groups& groups) {
    batch.slice = parallel::tokens_of_rank(batch.length(), groups.along(parallel::Axis::tensor));
    return batch;
}

}  // namespace plinth::launch
