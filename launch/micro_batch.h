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

/// The batch as this rank works on it beside the others of its tensor group: with its slice of the
/// tokens, where they divide its length.
core::Batch share_tokens(core::Batch batch, const parallel::Groups& groups);

}  // namespace plinth::launch
