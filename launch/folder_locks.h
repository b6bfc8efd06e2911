// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/io/run_lock.h"
#include "core/ranks.h"

namespace plinth::launch {

/// A folder that one job at a time trains into, and the key of the configuration that names it.
struct LockedFolder {
    std::string path;
    std::string key;
};

/// Rank 0 holds the locks of a job's folders; all ranks learn what it finds. Nothing is held at
/// first.
class FolderLocks {
  public:
    /// Both must outlive it.
    FolderLocks(core::io::FileSystem& files, core::Ranks& ranks) : files_(files), ranks_(ranks) {}

    /// Collective. Makes the folders where they are missing and locks them until this object ends;
    /// `options.key` is set for each. One folder under two names is locked once. May wait as
    /// core/io/run_lock.h says; a refusal is the same error on all ranks.
    void acquire(const std::vector<LockedFolder>& folders,
                 const core::io::RunLockOptions& options = {});
    /// Collective. An error of kind io on all ranks if another job has taken one of the locks over.
    /// A lock that cannot be read just now is not lost: `check_here` decides at the commit.
    void require_held();
    /// On rank 0, from any thread: the same, and an error also if a lock cannot be read.
    void check_here() const;

  private:
    void lock(const LockedFolder& folder, core::io::RunLockOptions options);
    bool holds(const std::string& folder) const;
    bool leads() const { return ranks_.rank() == 0; }

    core::io::FileSystem& files_;
    core::Ranks& ranks_;
    std::vector<std::unique_ptr<core::io::RunLock>> locks_;  ///< on rank 0
};

}  // namespace plinth::launch
