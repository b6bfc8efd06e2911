// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/io/file.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// What the rest of a run adds to checkpoint.folder.
struct DiskNeed {
    int64_t checkpoint_bytes = 0;  ///< of one: fp32 weights and both moments
    /// More checkpoints than there are now, at the worst moment: all that checkpoint.keep names and
    /// the one that is written before the oldest goes.
    int64_t at_once = 0;
    /// Besides, by the end, where keys say so: checkpoint.keep=0, or checkpoint.keep_every.
    int64_t kept_for_good = 0;

    double bytes_at_once() const;
    double bytes_by_the_end() const;
};

/// `there`: checkpoints that lie in the folder and that retention may still remove.
DiskNeed disk_need(const RunConfig& config, int64_t steps_done, int64_t there);

/// Refuses a run (kind io) whose checkpoints the disk has no room for at once, by key, with the
/// bytes needed and free; warns where it would be full by the end. The folder need not exist.
void require_disk_space(core::io::FileSystem& files, const RunConfig& config, int64_t steps_done,
                        const std::function<void(const std::string&)>& warn);

}  // namespace plinth::launch
