// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/io/file.h"

namespace plinth::core::data {

struct InputFiles {
    std::vector<std::string> paths;
    std::set<std::string> named;  ///< of those, what an input names itself
    /// Names in folders and patterns that lead to no file: links to nothing, pipes, sockets and
    /// devices.
    int64_t skipped = 0;
    std::string first_skipped;  ///< "folder/name is a link to nothing"

    /// One line for a warning; empty if nothing was skipped.
    std::string skipped_text() const;
};

/// The files that `inputs` name: files, folders (walked to the bottom, sorted bytewise, hidden
/// names left out) and patterns with * ? [...] in any part of the path, ** for folders of any
/// depth. A name that exists is taken as it is. The order is that of the inputs; a file that has
/// several names among them is listed once, by the first, so that links in a circle are no matter.
/// Errors are of kind config and begin with `key`, which the inputs are the value of: an input that
/// names nothing, and one that names a pipe, socket or device itself.
InputFiles find_input_files(io::FileSystem& files, const std::vector<std::string>& inputs,
                            const std::string& key);

/// The same where each name must lead to a file: what would be skipped is an error too.
std::vector<std::string> find_all_input_files(io::FileSystem& files,
                                              const std::vector<std::string>& inputs,
                                              const std::string& key);

}  // namespace plinth::core::data
