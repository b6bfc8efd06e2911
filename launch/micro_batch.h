// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/data/loader.h"
#include "core/nn/batch.h"

namespace plinth::launch {

/// A loaded micro-batch as tensors. Document ids only under a document mask: without one attention
/// need not look at them.
core::Batch to_batch(const core::data::MicroBatch& loaded, bool document_mask,
                     CachingAllocator& allocator);

}  // namespace plinth::launch
