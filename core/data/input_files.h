// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/io/file.h"

namespace plinth::core::data {

/// The files that `inputs` name: files, folders (walked to the bottom, sorted bytewise, hidden
/// names left out) and patterns with * ? [...] in any part of the path, ** for folders of any
/// depth. A name that exists is taken as it is. The order is that of the inputs; a file that two of
/// them name is listed once. An input that names nothing is an error of kind config.
std::vector<std::string> find_input_files(io::FileSystem& files,
                                          const std::vector<std::string>& inputs);

}  // namespace plinth::core::data
