// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace plinth::core::io {

/// What the system says in a file of /proc or /sys; empty where it is not there.
using SystemText = std::function<std::string(const std::string& path)>;
std::string system_text(const std::string& path);

/// Bytes of this machine's memory that its processes may still take: what /proc/meminfo calls
/// available (proc(5)), or less where a control group that holds this process, of either version,
/// has less left (cgroups(7)), file contents that the system can drop not counted. None where the
/// system does not say.
std::optional<int64_t> free_memory(const SystemText& text = system_text);

}  // namespace plinth::core::io
