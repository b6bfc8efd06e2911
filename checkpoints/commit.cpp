// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/commit.h"

#include "checkpoints/format.h"
#include "checkpoints/manifest.h"
#include "core/io/crc32c.h"
#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::FileSystem;
using core::io::join;
using core::io::OpenMode;

namespace {

void write_durably(FileSystem& files, const std::string& path, std::string_view content) {
    const auto file = files.open_write(path, OpenMode::create_new);
    file->append(std::as_bytes(std::span(content)));
    file->sync();
    file->close();
}

/// The ranks said that their parts are durable. Whether they wrote into the same folder is seen
/// only here: on a file system that is not shared, files are missing or short.
void check_data_files(FileSystem& files, const std::string& folder, const SavePlan& plan) {
    for (size_t number = 0; number < plan.file_sizes.size(); ++number) {
        const std::string path = join(folder, data_name(number));
        const uint64_t size = files.open_read(path)->size();
        REQUIRE(io, size == plan.file_sizes[number],
                "{}: rank 0 sees {} bytes and {} were written: is the folder on a file system that "
                "all ranks share?",
                path, size, plan.file_sizes[number]);
    }
}

void write_side_files(FileSystem& files, const std::string& folder, Root& root) {
    const auto& side_files = root.manifest.files;
    if (side_files.empty()) return;
    const std::string side = join(folder, side_folder);
    files.make_directories(side);
    for (const auto& [name, bytes] : side_files) {
        check_side_name(name, side);
        write_durably(files, join(side, name), bytes);
        root.side_files.push_back({name, bytes.size(), to_hex(core::io::xxh3_128(bytes))});
    }
    files.sync_directory(side);
}

void write_indexes(FileSystem& files, const std::string& folder, const SavePlan& plan,
                   const Origin& origin, Root& root) {
    size_t next = 0;
    for (uint64_t number = 0; number < plan.file_sizes.size(); ++number) {
        Index index{number, {}};
        for (; next < plan.pieces.size() && plan.pieces[next].file == number; ++next)
            index.pieces.push_back(plan.pieces[next].piece);
        const std::string content = frame(encode(index), FileKind::index, number, origin);
        write_durably(files, join(folder, index_name(number)), content);
        root.data_files.push_back({plan.file_sizes[number], content.size(),
                                   core::io::crc32c(0, std::as_bytes(std::span(content)))});
    }
}

}  // namespace

void commit_attempt(FileSystem& files, const std::string& root_folder, const std::string& folder,
                    const std::function<void()>& require_ours, const Manifest& manifest,
                    const SavePlan& plan) {
    const Origin origin{manifest.run_id, static_cast<uint64_t>(manifest.step),
                        static_cast<uint64_t>(manifest.attempt)};
    require_ours();
    check_data_files(files, folder, plan);
    Root root{manifest, {}, {}};
    root.manifest.tensors = plan.tensors;
    write_side_files(files, folder, root);
    write_indexes(files, folder, plan, origin, root);
    const std::string content = frame(encode(root), FileKind::manifest, 0, origin);
    write_durably(files, join(folder, manifest_name), content);
    // All names must be durable before COMMIT can be.
    files.sync_directory(folder);
    files.sync_directory(root_folder);
    const Commit commit{origin, content.size(), to_hex(core::io::xxh3_128(content))};
    require_ours();
    write_atomically(files, join(folder, commit_name), render(commit));
}

}  // namespace plinth::checkpoints
