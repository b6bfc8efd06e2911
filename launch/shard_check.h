// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "core/io/file.h"
#include "core/ranks.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// How often a long check is heard of.
struct ShardCheckPace {
    /// How long a rank reads before it meets the others: far below run.timeout, the time limit of a
    /// collective, however large the corpus and however slow the disk.
    std::chrono::milliseconds meet{200};
    std::chrono::milliseconds say{10'000};  ///< between two lines of progress
};

/// Collective. Hashes the shards of all data sets that the section names, each shard on one rank. A
/// thread reads while the calling one meets the other ranks in short collectives. A shard that is
/// not what its manifest says, or cannot be read, ends the reading on all ranks and is thrown on
/// all of them, with its rank and file. `say` gets the lines of progress, on every rank.
void verify_shards(const DataSection& section, core::io::FileSystem& files, core::Ranks& ranks,
                   const std::function<void(const std::string&)>& say,
                   const ShardCheckPace& pace = {});

}  // namespace plinth::launch
