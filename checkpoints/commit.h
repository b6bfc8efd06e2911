// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "checkpoints/checkpoint.h"
#include "checkpoints/plan.h"
#include "core/io/file.h"

namespace plinth::checkpoints {

/// Turns an attempt whose data files are durable into a checkpoint: side files, indexes, manifest,
/// and last, atomically, COMMIT. `plan` holds the checksums of all pieces. When it throws, COMMIT
/// may or may not be there, but if it is, the checkpoint is sound. `require_ours` throws if the
/// folder is another job's by now; it is asked first, and again before COMMIT is written.
void commit_attempt(core::io::FileSystem& files, const std::string& root, const std::string& folder,
                    const std::function<void()>& require_ours, const Manifest& manifest,
                    const SavePlan& plan);

}  // namespace plinth::checkpoints
