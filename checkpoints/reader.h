// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"
#include "core/io/file.h"
#include "core/tensor/shard.h"

namespace plinth::checkpoints {

/// Where a part of a tensor lies.
struct Location {
    uint64_t file = 0;
    Piece piece;
};

/// An attempt folder in a run folder.
struct Candidate {
    std::string folder;  ///< path
    uint64_t step = 0;
    uint64_t attempt = 0;
    bool committed = false;  ///< COMMIT exists; whether the checkpoint is sound is seen on opening
};

/// All attempt folders of a run, newest first (by step, then attempt). A missing run folder has
/// none.
std::vector<Candidate> list_checkpoints(core::io::FileSystem& files, const std::string& root);

/// A committed checkpoint, open for reading. Thread safe after `open`.
class Checkpoint {
  public:
    /// Checks everything but the tensor bytes: COMMIT, manifest hash, side files, index checksums,
    /// data file sizes and superblocks, and that pieces cover every tensor exactly once. Errors are
    /// of kind checkpoint or io and name the file; a newer format is `Refused`.
    static Checkpoint open(core::io::FileSystem& files, const std::string& folder);

    const std::string& folder() const { return folder_; }
    const Manifest& manifest() const { return manifest_; }
    /// Null for a tensor that the checkpoint does not have.
    const TensorInfo* find(const std::string& tensor) const;
    /// The pieces of a tensor, in no particular order.
    const std::vector<Location>& locations(const std::string& tensor) const;
    /// Bytes of all data files.
    uint64_t data_bytes() const;
    uint64_t data_files() const { return data_.size(); }

    /// Reads a part of a tensor: `out` points at shard.elements() elements. Only the checksum
    /// blocks that hold wanted elements are read, and each is checked before it is used; a wrong
    /// one is an error that names file, tensor and offset.
    void read(const std::string& tensor, const core::Shard& shard, void* out) const;

    /// Reads one checksum block of a piece with its padding into `out` (padded size) and checks it.
    void read_block(const Location& where, uint64_t block, std::span<std::byte> out) const;

  private:
    Checkpoint() = default;
    void check_block(const Location& where, uint64_t block, uint32_t crc) const;
    void read_whole_blocks(const Location& where, uint64_t first, std::span<std::byte> out) const;
    void read_piece(const Location& where, const core::Shard& shard, std::byte* out,
                    std::span<std::byte> scratch) const;

    std::string folder_;
    Manifest manifest_;
    std::vector<std::unique_ptr<core::io::ReadableFile>> data_;
    std::map<std::string, std::vector<Location>> pieces_;
};

/// Opens the data file and checks its size and both superblocks.
std::unique_ptr<core::io::ReadableFile> open_data_file(core::io::FileSystem& files,
                                                       const std::string& folder, uint64_t number,
                                                       uint64_t size, const Origin& origin);
/// COMMIT and the manifest that it binds.
std::pair<Root, Origin> read_root(core::io::FileSystem& files, const std::string& folder);
/// The index of one data file, its checksum and every field checked.
Index read_index(core::io::FileSystem& files, const std::string& folder, uint64_t number,
                 const DataFile& file, const Origin& origin);
/// A side file whose size and hash hold.
std::string read_side_file(core::io::FileSystem& files, const std::string& folder,
                           const SideFile& side);
/// Refuses an index that names a tensor which the manifest does not have, or has otherwise.
void check_tables_agree(const Manifest& manifest, const Index& index, const std::string& path);

}  // namespace plinth::checkpoints
