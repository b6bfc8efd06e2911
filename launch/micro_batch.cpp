// SPDX-License-Identifier: Apache-2.0
#include "launch/micro_batch.h"

#include "core/autograd/scope.h"
#include "parallel/context_parallel/zigzag.h"
#include "parallel/tensor_parallel/tensor_layout.h"

namespace plinth::launch {

core::Batch to_batch(const core::data::MicroBatch& loaded, bool document_mask, Session& session) {
    CachingAllocator& allocator = session.allocator();
    Stream& stream = session.stream();
    static_assert(core::Batch::ignored_target == core::data::kIgnoredTarget);
    const Shape shape{loaded.rows, loaded.length};
    core::Batch batch{
        .tokens = core::Tensor::of(loaded.inputs, shape, allocator, stream),
        .targets = core::Tensor::of(loaded.targets, shape, allocator, stream),
        .positions = core::Tensor::of(loaded.positions, shape, allocator, stream),
        .document_ids = {},
        .sample_ids = core::Tensor::of(loaded.sample_ids, {loaded.rows}, allocator, stream)};
    if (document_mask)
        batch.document_ids = core::Tensor::of(loaded.document_ids, shape, allocator, stream);
    return batch;
}

core::Batch share_tokens(core::Batch batch, const parallel::Groups& groups, Session& session) {
    const core::Scope scope(session.scope(DType::f32));  // copies allocate
    const parallel::Communicator& context = groups.along(parallel::Axis::context);
    batch.part = parallel::zigzag_part(batch.length(), context.rank(), context.size());
    for (core::Tensor* values : {&batch.tokens, &batch.targets, &batch.positions})
        *values = core::tokens_of(*values, batch.part);
    batch.slice = parallel::tokens_of_rank(batch.length(), groups.along(parallel::Axis::tensor));
    return batch;
}

}  // namespace plinth::launch
