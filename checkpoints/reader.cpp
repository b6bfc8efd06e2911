// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/reader.h"

#include <algorithm>
#include <cstring>

#include "checkpoints/format.h"
#include "checkpoints/reshard.h"
#include "core/io/crc32c.h"
#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::FileSystem;
using core::io::join;
using core::io::ReadableFile;

namespace {

constexpr int64_t read_blocks = 4;  // at a time: enough for the disk, few enough for the cache
constexpr uint64_t whole_file_limit = 300ull << 20;  // manifest, index, side file: in memory

/// A file that the manifest or COMMIT gives the size of, read only if it has that size.
std::string read_exactly(FileSystem& files, const std::string& path, uint64_t size) {
    const auto file = files.open_read(path);
    REQUIRE(checkpoint, file->size() == size,
            "{}: has {} bytes and should have {}: cut or replaced", path, file->size(), size);
    REQUIRE(checkpoint, size <= whole_file_limit, "{}: {} bytes are more than the limit of {}",
            path, size, whole_file_limit);
    std::string bytes(size, '\0');
    file->read_at(0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
}

const TensorInfo* find_tensor(const Manifest& manifest, const std::string& name) {
    const auto found = std::lower_bound(
        manifest.tensors.begin(), manifest.tensors.end(), name,
        [](const TensorInfo& info, const std::string& wanted) { return info.name < wanted; });
    return found != manifest.tensors.end() && found->name == name ? &*found : nullptr;
}

}  // namespace

std::vector<Candidate> list_checkpoints(FileSystem& files, const std::string& root) {
    std::vector<Candidate> found;
    if (!files.is_directory(root)) return found;
    for (const std::string& name : files.list(root)) {
        const auto parsed = parse_folder_name(name);
        if (!parsed) continue;
        const std::string folder = join(root, name);
        found.push_back(
            {folder, parsed->step, parsed->attempt, files.exists(join(folder, commit_name))});
    }
    std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
        return std::pair(a.step, a.attempt) > std::pair(b.step, b.attempt);
    });
    return found;
}

std::pair<Root, Origin> read_root(FileSystem& files, const std::string& folder) {
    const std::string commit_path = join(folder, commit_name);
    REQUIRE(checkpoint, files.exists(commit_path),
            "{}: is missing: not a checkpoint, or one that was never finished", commit_path);
    const auto commit_file = files.open_read(commit_path);
    REQUIRE(checkpoint, commit_file->size() <= 1024, "{}: not a commit record", commit_path);
    const Commit commit = parse_commit(core::io::read_all(files, commit_path), commit_path);
    const auto named = parse_folder_name(folder.substr(folder.rfind('/') + 1));
    REQUIRE(
        checkpoint,
        !named || (named->step == commit.origin.step && named->attempt == commit.origin.attempt),
        "{}: belongs to {}: its folder was renamed or its files replaced", commit_path,
        commit.origin.text());
    const std::string path = join(folder, manifest_name);
    const std::string bytes = read_exactly(files, path, commit.manifest_size);
    const std::string_view message = unframe(bytes, FileKind::manifest, 0, commit.origin, path);
    REQUIRE(checkpoint, to_hex(core::io::xxh3_128(bytes)) == commit.manifest_hash,
            "{}: damaged: its hash is not the one in {}", path, commit_name);
    Root root = decode_root(message, path);
    const Manifest& manifest = root.manifest;
    const Origin origin{manifest.run_id, static_cast<uint64_t>(manifest.step),
                        static_cast<uint64_t>(manifest.attempt)};
    REQUIRE(checkpoint, origin == commit.origin, "{}: belongs to {} and COMMIT to {}", path,
            origin.text(), commit.origin.text());
    return {std::move(root), origin};
}

Index read_index(FileSystem& files, const std::string& folder, uint64_t number,
                 const DataFile& file, const Origin& origin) {
    const std::string path = join(folder, index_name(number));
    const std::string bytes = read_exactly(files, path, file.index_size);
    const std::string_view message = unframe(bytes, FileKind::index, number, origin, path);
    REQUIRE(checkpoint, core::io::crc32c(0, std::as_bytes(std::span(bytes))) == file.index_crc32c,
            "{}: damaged: its checksum is not the one in the manifest", path);
    Index index = decode_index(message, file.size, path);
    REQUIRE(checkpoint, index.data_file == number, "{}: describes data file {}", path,
            index.data_file);
    return index;
}

void check_tables_agree(const Manifest& manifest, const Index& index, const std::string& path) {
    for (const Piece& piece : index.pieces) {
        const TensorInfo* info = find_tensor(manifest, piece.tensor);
        REQUIRE(
            checkpoint,
            info && info->dtype == piece.dtype && info->global_shape == piece.shard.global_shape,
            "{}: tensor {} ({} {}) is not the one in the manifest", path, piece.tensor,
            name_of(piece.dtype), piece.shard.global_shape.text());
    }
}

std::string read_side_file(FileSystem& files, const std::string& folder, const SideFile& side) {
    const std::string path = join(join(folder, side_folder), side.name);
    std::string bytes = read_exactly(files, path, side.size);
    REQUIRE(checkpoint, to_hex(core::io::xxh3_128(bytes)) == side.hash,
            "{}: damaged: its hash is not the one in the manifest", path);
    return bytes;
}

std::unique_ptr<ReadableFile> open_data_file(FileSystem& files, const std::string& folder,
                                             uint64_t number, uint64_t size, const Origin& origin) {
    const std::string path = join(folder, data_name(number));
    auto file = files.open_read(path);
    REQUIRE(checkpoint, file->size() == size && size >= 2 * superblock_bytes,
            "{}: has {} bytes and should have {}: cut or replaced", path, file->size(), size);
    const Superblock expected{FileKind::data, static_cast<uint32_t>(number), size, origin};
    std::array<std::byte, superblock_bytes> block;
    file->read_at(0, block);
    check_superblock(block, Place::begin, expected, path);
    file->read_at(size - superblock_bytes, block);
    check_superblock(block, Place::end, expected, path);
    return file;
}

Checkpoint Checkpoint::open(FileSystem& files, const std::string& folder) {
    auto [root, origin] = read_root(files, folder);
    Checkpoint checkpoint;
    checkpoint.folder_ = folder;
    checkpoint.manifest_ = root.manifest;
    for (const SideFile& side : root.side_files)
        checkpoint.manifest_.files[side.name] = read_side_file(files, folder, side);
    for (uint64_t number = 0; number < root.data_files.size(); ++number) {
        const DataFile& file = root.data_files[number];
        Index index = read_index(files, folder, number, file, origin);
        check_tables_agree(checkpoint.manifest_, index, join(folder, index_name(number)));
        checkpoint.data_.push_back(open_data_file(files, folder, number, file.size, origin));
        for (Piece& piece : index.pieces)
            checkpoint.pieces_[piece.tensor].push_back({number, std::move(piece)});
    }
    for (const TensorInfo& info : checkpoint.manifest_.tensors) {
        std::vector<core::Shard> shards;
        for (const Location& where : checkpoint.pieces_[info.name])
            shards.push_back(where.piece.shard);
        const std::string problem = coverage_problem(info.global_shape, shards);
        REQUIRE(checkpoint, problem.empty(), "{}: tensor {} is not complete: {}", folder, info.name,
                problem);
    }
    return checkpoint;
}

const TensorInfo* Checkpoint::find(const std::string& tensor) const {
    return find_tensor(manifest_, tensor);
}

const std::vector<Location>& Checkpoint::locations(const std::string& tensor) const {
    const auto found = pieces_.find(tensor);
    REQUIRE(checkpoint, found != pieces_.end(), "{}: has no tensor {}", folder_, tensor);
    return found->second;
}

uint64_t Checkpoint::data_bytes() const {
    uint64_t bytes = 0;
    for (const auto& file : data_)
        bytes += file->size();
    return bytes;
}

void Checkpoint::check_block(const Location& where, uint64_t block, uint32_t crc) const {
    const Piece& piece = where.piece;
    REQUIRE(checkpoint, crc == piece.crc32c[block],
            "{}: tensor {} is damaged: the checksum of the block at offset {} does not hold",
            data_[where.file]->path(), piece.tensor, piece.offset + block * block_bytes);
}

void Checkpoint::read_block(const Location& where, uint64_t block, std::span<std::byte> out) const {
    data_[where.file]->read_at(where.piece.offset + block * block_bytes, out);
    check_block(where, block, core::io::crc32c(0, out));
}

void Checkpoint::read_whole_blocks(const Location& where, uint64_t first,
                                   std::span<std::byte> out) const {
    data_[where.file]->read_at(where.piece.offset + first * block_bytes, out);
    for (; !out.empty(); out = out.subspan(block_bytes))
        check_block(where, first++, core::io::crc32c(0, out.first(block_bytes)));
}

/// What `shard` wants of one piece. A block that is wanted whole and in order is read where it
/// belongs; of others the wanted parts are copied.
void Checkpoint::read_piece(const Location& where, const core::Shard& shard, std::byte* out,
                            std::span<std::byte> scratch) const {
    const Piece& piece = where.piece;
    const auto element = static_cast<int64_t>(size_of(piece.dtype));
    const int64_t in_block = static_cast<int64_t>(block_bytes) / element;
    uint64_t loaded = blocks_of(piece.bytes());  // none yet
    for (const Overlap& part : overlaps(piece.shard, shard)) {
        for (int64_t at = part.from, end = part.from + part.count; at < end;) {
            const int64_t block = at / in_block;
            const auto number = static_cast<uint64_t>(block);
            std::byte* target = out + (part.to + at - part.from) * element;
            int64_t count = std::min(end, (block + 1) * in_block) - at;
            if (count == in_block) {
                const int64_t blocks = std::min((end - at) / in_block, read_blocks);
                read_whole_blocks(where, number,
                                  {target, static_cast<size_t>(blocks) * block_bytes});
                count = blocks * in_block;
            } else {
                const uint64_t start = number * block_bytes;
                if (loaded != number)
                    read_block(where, number,
                               scratch.first(padded(std::min(block_bytes, piece.bytes() - start))));
                loaded = number;
                std::memcpy(target, scratch.data() + (at - block * in_block) * element,
                            static_cast<size_t>(count * element));
            }
            at += count;
        }
    }
}

void Checkpoint::read(const std::string& tensor, const core::Shard& shard, void* out) const {
    const TensorInfo* info = find(tensor);
    REQUIRE(checkpoint, info, "{}: has no tensor {}", folder_, tensor);
    CHECK(info->global_shape == shard.global_shape, "tensor {} is {} in {} and {} here", tensor,
          info->global_shape.text(), folder_, shard.global_shape.text());
    if (shard.elements() == 0) return;
    const auto scratch = std::make_unique_for_overwrite<std::byte[]>(block_bytes);
    for (const Location& where : locations(tensor))
        read_piece(where, shard, static_cast<std::byte*>(out), {scratch.get(), block_bytes});
}

}  // namespace plinth::checkpoints
