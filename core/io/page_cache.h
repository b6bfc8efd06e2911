// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace plinth::core::io {

/// Asks the system to drop what it keeps of a file in memory, so that the next read is one of the
/// disk (posix_fadvise(2)), and looks whether it has (mincore(2)). False where it keeps some of it:
/// bytes that were not synced, or a file system that lives in memory. What a machine below this one
/// keeps is not seen.
bool drop_from_page_cache(const std::string& path);

}  // namespace plinth::core::io
