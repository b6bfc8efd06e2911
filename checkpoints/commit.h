// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "checkpoints/checkpoint.h"
#include "checkpoints/plan.h"
#include "core/io/file.h"

namespace plinth::checkpoints {

/// Turns an attempt whose data files are durable into a checkpoint: side files, indexes, manifest,
/// and last, atomically, COMMIT. `plan` holds the checksums of all pieces. When it throws, COMMIT
/// may or may not be there, but if it is, the checkpoint is sound. A folder that does not hold
/// `mark` any more is refused: it is another job's.
void commit_attempt(core::io::FileSystem& files, const std::string& root, const std::string& folder,
                    const std::string& mark, const Manifest& manifest, const SavePlan& plan);

}  // namespace plinth::checkpoints
