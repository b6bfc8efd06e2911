// SPDX-License-Identifier: Apache-2.0
#include "core/data/input_files.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <set>
#include <tuple>
#include <utility>

#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

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

using Identity = std::pair<uint64_t, uint64_t>;

/// What one input names. A link may lead back to a folder above it, so that each folder is
/// looked into once.
class Search {
  public:
    Search(io::FileSystem& files, InputFiles& found, std::set<Identity>& files_seen)
        : files_(files), found_(found), files_seen_(files_seen) {}

    /// Whether it names a file, be it one of an earlier input.
    bool any() const { return any_; }

    /// All files at or below a path.
    void walk(const std::string& path) {
        const io::FileStatus status = files_.status(path);
        switch (status.kind) {
            case io::FileStatus::Kind::none:
                return skip(path + " is a link to nothing");
            case io::FileStatus::Kind::other:
                return skip(path + " is a pipe, a socket or a device");
            case io::FileStatus::Kind::file:
                any_ = true;
                if (files_seen_.emplace(status.device, status.number).second)
                    found_.paths.push_back(path);
                return;
            case io::FileStatus::Kind::folder:
                break;
        }
        if (!walked_.emplace(status.device, status.number).second) return;
        for (const std::string& name : files_.list(path))
            if (!name.starts_with('.')) walk(io::join(path, name));
    }

    /// Matches `parts` from `index` on below `folder` ("" is the current one).
    void match(const std::string& folder, const std::vector<std::string>& parts, size_t index) {
        if (index == parts.size()) return walk(folder);
        const std::string& part = parts[index];
        if (!is_pattern(part)) {
            if (files_.exists(below(folder, part))) match(below(folder, part), parts, index + 1);
            return;
        }
        const std::string listed = folder.empty() ? "." : folder;
        const io::FileStatus status = files_.status(listed);
        if (status.kind != io::FileStatus::Kind::folder) return;
        if (part == "**") return match_deep(folder, status, parts, index);
        for (const std::string& name : files_.list(listed))
            if (fnmatch(part.c_str(), name.c_str(), FNM_PERIOD) == 0)
                match(below(folder, name), parts, index + 1);
    }

  private:
    /// `parts[index]` is **: the rest matches here or in any folder below.
    void match_deep(const std::string& folder, const io::FileStatus& status,
                    const std::vector<std::string>& parts, size_t index) {
        if (!matched_.emplace(status.device, status.number, index).second) return;
        match(folder, parts, index + 1);
        for (const std::string& name : files_.list(folder.empty() ? "." : folder))
            if (!name.starts_with('.') && is_folder(below(folder, name)))
                match(below(folder, name), parts, index);
    }

    bool is_folder(const std::string& path) const {
        return files_.status(path).kind == io::FileStatus::Kind::folder;
    }
    static std::string below(const std::string& folder, const std::string& name) {
        return folder.empty() ? name : io::join(folder, name);
    }

    void skip(const std::string& what) {
        if (found_.skipped++ == 0) found_.first_skipped = what;
    }

    io::FileSystem& files_;
    InputFiles& found_;
    std::set<Identity>& files_seen_;
    std::set<Identity> walked_;
    bool any_ = false;
    std::set<std::tuple<uint64_t, uint64_t, size_t>> matched_;
};

}  // namespace

std::string InputFiles::skipped_text() const {
    if (skipped == 0) return "";
    return fmt::format("{} names lead to no file and were skipped; the first: {}", skipped,
                       first_skipped);
}

InputFiles find_input_files(io::FileSystem& files, const std::vector<std::string>& inputs,
                            const std::string& key) {
    InputFiles all;
    std::set<Identity> files_seen;
    for (const std::string& input : inputs) {
        InputFiles found;
        Search search(files, found, files_seen);
        if (files.exists(input)) {
            search.walk(input);
            if (files.status(input).kind == io::FileStatus::Kind::file) all.named.insert(input);
        } else if (is_pattern(input)) {
            search.match(input.starts_with('/') ? "/" : "", split_path(input), 0);
        }
        REQUIRE(config, search.any(), "{}: \"{}\" names no file{}{}", key, input,
                found.skipped > 0 ? ": " : "", found.first_skipped);
        all.paths.insert(all.paths.end(), found.paths.begin(), found.paths.end());
        if (all.skipped == 0) all.first_skipped = found.first_skipped;
        all.skipped += found.skipped;
    }
    return all;
}

std::vector<std::string> find_all_input_files(io::FileSystem& files,
                                              const std::vector<std::string>& inputs,
                                              const std::string& key) {
    InputFiles found = find_input_files(files, inputs, key);
    REQUIRE(config, found.skipped == 0, "{}: {}; remove it, or name the files one by one", key,
            found.first_skipped);
    return std::move(found.paths);
}

}  // namespace plinth::core::data
