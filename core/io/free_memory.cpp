// SPDX-License-Identifier: Apache-2.0
#include "core/io/free_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

namespace plinth::core::io {

namespace {

/// The number at the begin of a text; none of "max" and of nothing.
std::optional<int64_t> number_in(const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc()) return {};
    return value;
}

/// The number behind `name` in the line that begins with it.
std::optional<int64_t> number_of(const std::string& lines, const std::string& name) {
    std::istringstream in(lines);
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string word, value;
        if (words >> word >> value && word == name) return number_in(value);
    }
    return {};
}

/// One version's names.
struct ControlGroups {
    std::string root;   ///< of all groups
    std::string group;  ///< of this process, below it
    const char* limit;
    const char* used;
    const char* droppable;  ///< in memory.stat
};

/// Lines "number:controllers:path" of /proc/self/cgroup; version 2 has no controllers.
std::optional<ControlGroups> groups_of(const std::string& line) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) return {};
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty())
        return ControlGroups{"/sys/fs/cgroup", group, "memory.max", "memory.current",
                             "inactive_file"};
    if (("," + controllers + ",").find(",memory,") == std::string::npos) return {};
    return ControlGroups{"/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                         "memory.usage_in_bytes", "total_inactive_file"};
}

/// The least that the group and those around it have left. A container may see its own group as the
/// root, whatever its name outside.
std::optional<int64_t> left_in(const ControlGroups& groups, const SystemText& text) {
    std::optional<int64_t> least;
    std::string group = groups.group == "/" ? "" : groups.group;
    for (;;) {
        const std::string folder = groups.root + group + "/";
        const auto limit = number_in(text(folder + groups.limit));
        const auto used = number_in(text(folder + groups.used));
        if (limit && used) {
            const int64_t droppable =
                number_of(text(folder + "memory.stat"), groups.droppable).value_or(0);
            const int64_t left =
                std::max<int64_t>(0, *limit - std::max<int64_t>(0, *used - droppable));
            least = std::min(least.value_or(left), left);
        }
        if (group.empty()) return least;
        group.resize(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
    }
}

}  // namespace

std::string system_text(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<int64_t> free_memory(const SystemText& text) {
    constexpr int64_t kib = 1024;
    std::optional<int64_t> least = number_of(text("/proc/meminfo"), "MemAvailable:");
    if (least) *least *= kib;
    std::istringstream lines(text("/proc/self/cgroup"));
    for (std::string line; std::getline(lines, line);) {
        const auto groups = groups_of(line);
        if (!groups) continue;
        const auto left = left_in(*groups, text);
        if (left) least = std::min(least.value_or(*left), *left);
    }
    return least;
}

}  // namespace plinth::core::io
