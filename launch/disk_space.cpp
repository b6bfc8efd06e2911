// SPDX-License-Identifier: Apache-2.0
#include "launch/disk_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "checkpoints/reader.h"
#include "kernels/runtime/error.h"
#include "launch/config/model_size.h"

namespace plinth::launch {

namespace {

/// Multiples of `period` in (done, steps]; a run saves at its end too.
int64_t saves_by_step(int64_t period, int64_t done, int64_t steps) {
    if (steps <= done) return 0;
    if (period == 0) return 1;
    return steps / period - done / period + (steps % period != 0 ? 1 : 0);
}

/// Of those, the ones whose step checkpoint.keep_every divides.
int64_t saves_kept_by_step(const CheckpointSection& config, int64_t done, int64_t steps) {
    const int64_t nth = config.keep_every;
    if (nth == 0 || steps <= done) return 0;
    int64_t kept = 0;
    if (config.every > 0) {
        const int64_t times = nth / std::gcd(nth, config.every);
        if (times <= steps / config.every)
            kept = steps / (config.every * times) - done / (config.every * times);
    }
    const bool last_besides = config.every == 0 || steps % config.every != 0;
    return kept + (last_besides && steps % nth == 0 ? 1 : 0);
}

/// Committed checkpoints that only checkpoint.keep decides about.
int64_t removable_checkpoints(core::io::FileSystem& files, const CheckpointSection& config) {
    const auto all = checkpoints::list_checkpoints(files, config.folder);
    return std::count_if(all.begin(), all.end(), [&](const checkpoints::Candidate& found) {
        return found.committed && (config.keep_every == 0 ||
                                   found.step % static_cast<uint64_t>(config.keep_every) != 0);
    });
}

std::string existing_part(core::io::FileSystem& files, std::string folder) {
    while (!folder.empty() && folder != "/" && !files.exists(folder)) {
        const size_t slash = folder.find_last_of('/');
        folder = slash == std::string::npos ? "" : slash == 0 ? "/" : folder.substr(0, slash);
    }
    return folder.empty() ? "." : folder;
}

}  // namespace

double DiskNeed::bytes_at_once() const {
    return static_cast<double>(checkpoint_bytes) * static_cast<double>(at_once);
}

double DiskNeed::bytes_by_the_end() const {
    return bytes_at_once() +
           static_cast<double>(checkpoint_bytes) * static_cast<double>(kept_for_good);
}

DiskNeed disk_need(const RunConfig& config, int64_t steps_done, int64_t there) {
    const CheckpointSection& section = config.checkpoint;
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    const int64_t by_step = saves_by_step(section.every, steps_done, steps);
    const int64_t saves =
        by_step > 0 && section.every_seconds > 0 ? std::numeric_limits<int64_t>::max() : by_step;
    DiskNeed need{.checkpoint_bytes =
                      saved_bytes(config.optimizer) * parameter_count(config.model)};
    if (section.keep == 0) {
        need.at_once = std::min<int64_t>(saves, 1);
        need.kept_for_good = by_step - need.at_once;
        return need;
    }
    need.at_once = std::min(saves, 1 + std::max<int64_t>(0, section.keep - there));
    need.kept_for_good = saves_kept_by_step(section, steps_done, steps);
    return need;
}

void require_disk_space(core::io::FileSystem& files, const RunConfig& config, int64_t steps_done,
                        const std::function<void(const std::string&)>& warn) {
    const CheckpointSection& section = config.checkpoint;
    const DiskNeed need = disk_need(config, steps_done, removable_checkpoints(files, section));
    const auto free = static_cast<double>(files.free_bytes(existing_part(files, section.folder)));
    REQUIRE(io, need.bytes_at_once() <= free,
            "checkpoint.folder: {}: {} checkpoints of {} bytes need {:.0f} bytes there at once, "
            "and {:.0f} are free: free {:.0f} more, choose another checkpoint.folder, or lower "
            "checkpoint.keep ({}; the next one is written before the oldest is removed)",
            section.folder, need.at_once, need.checkpoint_bytes, need.bytes_at_once(), free,
            need.bytes_at_once() - free, section.keep);
    if (need.bytes_by_the_end() > free)
        warn(fmt::format(
            "checkpoint.folder: {}: the disk has {:.0f} bytes free, and by the end of the run its "
            "checkpoints need {:.0f}, since {}: move older ones away in time",
            section.folder, free, need.bytes_by_the_end(),
            section.keep == 0 ? "checkpoint.keep=0 keeps all"
                              : fmt::format("checkpoint.keep_every={} keeps {} for good",
                                            section.keep_every, need.kept_for_good)));
}

}  // namespace plinth::launch
