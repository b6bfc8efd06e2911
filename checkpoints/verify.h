// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/io/file.h"

namespace plinth::checkpoints {

/// Reads and checks every byte of a checkpoint. Returns one line a problem, each naming the file
/// and, for tensor bytes, the tensor and the offset; none if it is sound. A newer format is a
/// problem too.
std::vector<std::string> verify(core::io::FileSystem& files, const std::string& folder);

/// A table for people: origin, counters, mesh, versions, files, tensors with shape, dtype and size,
/// and the configuration.
std::string inspect(core::io::FileSystem& files, const std::string& folder);

}  // namespace plinth::checkpoints
