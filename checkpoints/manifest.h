// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/format.h"
#include "core/tensor/shard.h"

/// The two protobuf messages as plain structs. Decoding trusts nothing: every size is checked
/// before it is used, with arithmetic that cannot overflow.
namespace plinth::checkpoints {

struct DataFile {
    uint64_t size = 0;
    uint64_t index_size = 0;
    uint32_t index_crc32c = 0;
    bool operator==(const DataFile&) const = default;
};

struct SideFile {
    std::string name;
    uint64_t size = 0;
    std::string hash;  ///< XXH3-128, 32 hex digits
    bool operator==(const SideFile&) const = default;
};

/// The root manifest with its tables of files. `manifest.files` (the bytes) is not part of it.
struct Root {
    Manifest manifest;
    std::vector<DataFile> data_files;
    std::vector<SideFile> side_files;
    bool operator==(const Root&) const = default;
};

/// A contiguous part of one tensor in one data file.
struct Piece {
    std::string tensor;
    DType dtype = DType::f32;
    core::Shard shard;
    uint64_t offset = 0;  ///< of the first byte in the data file
    std::vector<uint32_t> crc32c;
    uint64_t bytes() const { return static_cast<uint64_t>(shard.elements()) * size_of(dtype); }
    bool operator==(const Piece&) const = default;
};

struct Index {
    uint64_t data_file = 0;
    std::vector<Piece> pieces;  ///< in file order, without gaps
    bool operator==(const Index&) const = default;
};

/// CRC blocks of a piece of that many bytes.
constexpr uint64_t blocks_of(uint64_t bytes) {
    return (bytes + block_bytes - 1) / block_bytes;
}

/// Message bytes, without the superblocks around them.
std::string encode(const Root& root);
std::string encode(const Index& index);
/// Errors are of kind checkpoint and name `path` and the field.
Root decode_root(std::string_view message, const std::string& path);
/// `data_size` is the size of the data file that the pieces must fill exactly.
Index decode_index(std::string_view message, uint64_t data_size, const std::string& path);

/// One rank's tensors as bytes for the other ranks: names, dtypes and shards.
std::string encode_table(std::span<const core::StateTensor> tensors);
/// The inverse; empty shards are allowed, names must differ.
std::vector<Piece> decode_table(std::string_view message);

/// A whole index or manifest file: superblock, message, superblock.
std::string frame(std::string_view message, FileKind kind, uint64_t number, const Origin& origin);
/// The message inside; errors name `path`.
std::string_view unframe(std::string_view file, FileKind kind, uint64_t number,
                         const Origin& origin, const std::string& path);

}  // namespace plinth::checkpoints
