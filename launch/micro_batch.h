// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/data/loader.h"
#include "core/nn/batch.h"
#include "launch/session.h"
#include "parallel/comm/groups.h"

namespace plinth::launch {

/// A loaded micro-batch as tensors. Document ids only under a document mask: without one attention
/// need not look at them.
core::Batch to_batch(const core::data::MicroBatch& loaded, bool document_mask, Session& session);

/// A batch of whole sequences as this rank works on it beside others: with its tokens of them in a
/// context group, of those its slice in a tensor group, where the ranks divide their number.
core::Batch share_tokens(core::Batch batch, const parallel::Groups& groups, Session& session);

}  // namespace plinth::launch
