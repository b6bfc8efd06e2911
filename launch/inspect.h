// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/data/inspect.h"
#include "core/io/file.h"

// The stages that look at what others wrote. Each takes the words of the command line and returns
// the exit code.
namespace plinth::launch {

/// `plinth data inspect FOLDER`: reads every byte of a data set and prints what it holds.
int inspect_data(const std::vector<std::string>& words);

/// `plinth checkpoint inspect PATH`: a table of the newest checkpoint there.
int inspect_checkpoint(const std::vector<std::string>& words);

/// `plinth checkpoint verify PATH`: checks every byte of every committed checkpoint there, one line
/// a problem. The exit code is that of damaged checkpoints if there is one.
int verify_checkpoint(const std::vector<std::string>& words);

/// `plinth plot FILE... [key=loss] [svg=OUT] [title=TEXT]`: curves of metrics.jsonl files, as text
/// or into an SVG file.
int plot_metrics(const std::vector<std::string>& words);

/// What `data inspect` prints, with the entropies of every split's text.
std::string data_text(core::io::FileSystem& files, const std::string& folder,
                      const core::data::DatasetSummary& summary);

/// The committed checkpoints that a path names, newest first: the folder itself if it is one, else
/// those in it or in its "checkpoints". None is an error of kind checkpoint.
std::vector<std::string> checkpoints_at(core::io::FileSystem& files, const std::string& path);

}  // namespace plinth::launch
