// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/io/file.h"

namespace plinth::checkpoints {

struct RetentionPolicy {
    int64_t keep_newest = 0;  ///< 0 keeps all
    int64_t keep_every = 0;   ///< also keeps the steps that this number divides; 0: none
    /// What "sound" means before older ones go: all bytes read back and checked once, or (for
    /// checkpoints too large to read back on one rank) everything but the tensor bytes.
    bool check_every_byte = true;

    void validate() const;
};

/// Removes checkpoints that the policy does not keep, oldest first, but none as long as no kept one
/// is sound: the last sound checkpoint of a run is never removed. Safe to kill at any point: COMMIT
/// goes first, so a half removed folder is no checkpoint.
class Retention {
  public:
    Retention(core::io::FileSystem& files, RetentionPolicy policy);

    /// Returns the folders removed; problems go to `warn`.
    std::vector<std::string> apply(const std::string& root, const Warn& warn);

  private:
    bool any_sound(const std::vector<std::string>& folders, const Warn& warn);

    core::io::FileSystem& files_;
    RetentionPolicy policy_;
    std::set<std::string> known_sound_;  ///< checked before, not read again
};

/// Removes one checkpoint folder, COMMIT first.
void remove_checkpoint(core::io::FileSystem& files, const std::string& folder);

/// Removes what interrupted saves and removals left behind: attempt folders without COMMIT. Only
/// for a run folder in which nobody is saving.
void remove_unfinished(core::io::FileSystem& files, const std::string& root, const Warn& warn);

}  // namespace plinth::checkpoints
