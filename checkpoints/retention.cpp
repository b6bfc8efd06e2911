// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/retention.h"

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/verify.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::FileSystem;
using core::io::join;

void RetentionPolicy::validate() const {
    REQUIRE(config, keep_newest >= 0, "checkpoints to keep: 0 (all) or more, got {}", keep_newest);
    REQUIRE(config, keep_every >= 0, "steps between checkpoints to keep: 0 (none) or more, got {}",
            keep_every);
}

void remove_checkpoint(FileSystem& files, const std::string& folder) {
    const std::string commit = join(folder, commit_name);
    if (files.exists(commit)) {
        files.remove(commit);
        // Durable before the first byte of data goes: after a crash a COMMIT without data would
        // look like damage.
        files.sync_directory(folder);
    }
    files.remove_all(folder);
    files.sync_directory(parent_of(folder));
}

void remove_unfinished(FileSystem& files, const std::string& root, const Warn& warn) {
    for (const Candidate& candidate : list_checkpoints(files, root)) {
        if (candidate.committed) continue;
        try {
            remove_checkpoint(files, candidate.folder);
        } catch (const Error& error) {
            if (warn)
                warn(fmt::format("{}: an unfinished save was not removed: {}", candidate.folder,
                                 error.what()));
        }
    }
}

Retention::Retention(FileSystem& files, RetentionPolicy policy) : files_(files), policy_(policy) {
    policy_.validate();
}

bool Retention::any_sound(const std::vector<std::string>& folders, const Warn& warn) {
    for (const std::string& folder : folders) {
        if (known_sound_.contains(folder)) return true;
        std::string problem;
        try {
            if (policy_.check_every_byte) {
                const std::vector<std::string> problems = verify(files_, folder);
                if (!problems.empty()) problem = problems.front();
            } else {
                Checkpoint::open(files_, folder);
            }
        } catch (const Error& error) {
            problem = error.what();
        }
        if (problem.empty()) {
            known_sound_.insert(folder);
            return true;
        }
        if (warn) warn(fmt::format("{} is not sound: {}", folder, problem));
    }
    return false;
}

std::vector<std::string> Retention::apply(const std::string& root, const Warn& warn) {
    if (policy_.keep_newest == 0) return {};
    std::vector<std::string> kept, surplus;
    for (const Candidate& candidate : list_checkpoints(files_, root)) {
        if (!candidate.committed) continue;
        const bool newest = static_cast<int64_t>(kept.size()) < policy_.keep_newest;
        const bool nth = policy_.keep_every > 0 &&
                         candidate.step % static_cast<uint64_t>(policy_.keep_every) == 0;
        (newest || nth ? kept : surplus).push_back(candidate.folder);
    }
    std::vector<std::string> removed;
    if (surplus.empty()) return removed;
    if (!any_sound(kept, warn)) {
        if (warn)
            warn(fmt::format("{}: no checkpoint that would be kept is sound, so none is removed",
                             root));
        return removed;
    }
    for (auto folder = surplus.rbegin(); folder != surplus.rend(); ++folder) {
        remove_checkpoint(files_, *folder);
        known_sound_.erase(*folder);
        removed.push_back(*folder);
    }
    return removed;
}

}  // namespace plinth::checkpoints
