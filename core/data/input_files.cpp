// SPDX-License-Identifier: Apache-2.0
#include "core/data/input_files.h"

#include <fnmatch.h>

#include <unordered_set>

#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

void walk(io::FileSystem& files, const std::string& path, std::vector<std::string>& found) {
    if (!files.is_directory(path)) {
        found.push_back(path);
        return;
    }
    for (const std::string& name : files.list(path)) {
        if (!name.starts_with('.')) walk(files, io::join(path, name), found);
    }
}

std::vector<std::string> split_path(const std::string& path) {
    std::vector<std::string> parts;
    size_t at = 0;
    while (at <= path.size()) {
        const size_t end = std::min(path.find('/', at), path.size());
        if (end > at) parts.push_back(path.substr(at, end - at));
        at = end + 1;
    }
    return parts;
}

bool is_pattern(const std::string& part) {
    return part.find_first_of("*?[") != std::string::npos;
}

/// Matches `parts` from `index` on below `folder` ("" is the current one).
void match(io::FileSystem& files, const std::string& folder, const std::vector<std::string>& parts,
           size_t index, std::vector<std::string>& found) {
    if (index == parts.size()) {
        walk(files, folder, found);
        return;
    }
    const auto below = [&](const std::string& name) {
        return folder.empty() ? name : io::join(folder, name);
    };
    const std::string& part = parts[index];
    if (!is_pattern(part)) {
        if (files.exists(below(part))) match(files, below(part), parts, index + 1, found);
        return;
    }
    const std::string listed = folder.empty() ? "." : folder;
    if (!files.is_directory(listed)) return;
    if (part == "**") match(files, folder, parts, index + 1, found);
    for (const std::string& name : files.list(listed)) {
        if (part == "**") {
            if (!name.starts_with('.') && files.is_directory(below(name))) {
                match(files, below(name), parts, index, found);
            }
        } else if (fnmatch(part.c_str(), name.c_str(), FNM_PERIOD) == 0) {
            match(files, below(name), parts, index + 1, found);
        }
    }
}

}  // namespace

std::vector<std::string> find_input_files(io::FileSystem& files,
                                          const std::vector<std::string>& inputs) {
    std::vector<std::string> all;
    std::unordered_set<std::string> seen;
    for (const std::string& input : inputs) {
        std::vector<std::string> found;
        if (files.exists(input)) {
            walk(files, input, found);
        } else if (is_pattern(input)) {
            match(files, input.starts_with('/') ? "/" : "", split_path(input), 0, found);
        }
        REQUIRE(config, !found.empty(), "\"{}\" in the list of inputs names no file", input);
        for (std::string& path : found) {
            if (seen.insert(path).second) all.push_back(std::move(path));
        }
    }
    return all;
}

}  // namespace plinth::core::data
