// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/attempt.h"

#include <algorithm>
#include <span>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/format.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::FileSystem;
using core::io::join;
using core::io::OpenMode;

namespace {

constexpr int collisions = 1000;  // with other writers, in one call: far more than there can be

void put_mark(FileSystem& files, const std::string& folder, const std::string& mark) {
    try {
        const auto file = files.open_write(join(folder, writer_name), OpenMode::create_new);
        file->append(std::as_bytes(std::span(mark)));
        file->close();
    } catch (...) {
        try {
            files.remove_all(folder);  // made here just now, and nobody knows of it
        } catch (const Error&) {       // the first error is the one to report
        }
        throw;
    }
}

}  // namespace

std::string new_writer_mark() {
    return new_run_id() + "\n";
}

void make_durable_folder(FileSystem& files, const std::string& root) {
    std::vector<std::string> missing;
    for (std::string path = root; !files.exists(path) && path != "."; path = parent_of(path))
        missing.push_back(path);
    files.make_directories(root);
    for (const std::string& path : missing)
        files.sync_directory(parent_of(path));
}

uint64_t newest_attempt(FileSystem& files, const std::string& root, uint64_t step) {
    uint64_t newest = 0;
    for (const std::string& name : files.list(root)) {
        const auto folder = parse_folder_name(name);
        if (folder && folder->step == step) newest = std::max(newest, folder->attempt);
    }
    return newest;
}

uint64_t make_attempt(FileSystem& files, const std::string& root, uint64_t step, uint64_t used,
                      const std::string& mark) {
    for (uint64_t attempt = used + 1; attempt <= used + collisions; ++attempt) {
        const std::string folder = join(root, folder_name(step, attempt));
        if (!files.create_directory(folder)) continue;
        put_mark(files, folder, mark);
        return attempt;
    }
    FAIL(io, "{}: other writers made the folders of {} attempts at step {} before this one could",
         root, collisions, step);
}

bool is_own_attempt(FileSystem& files, const std::string& folder, const std::string& mark) {
    const std::string path = join(folder, writer_name);
    return files.exists(path) && core::io::read_all(files, path) == mark;
}

void remove_mark(FileSystem& files, const std::string& folder) {
    try {
        files.remove(join(folder, writer_name));
    } catch (const Error&) {  // a small file that nobody reads stays
    }
}

void require_own_attempt(FileSystem& files, const std::string& folder, const std::string& mark) {
    REQUIRE(io, is_own_attempt(files, folder, mark),
            "{}: another job has removed this attempt: end one of the jobs that save into {}",
            folder, parent_of(folder));
}

}  // namespace plinth::checkpoints
