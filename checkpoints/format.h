// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/// The bytes around the messages: names, superblocks and COMMIT (docs/checkpoint_format.md).
namespace plinth::checkpoints {

inline constexpr uint64_t superblock_bytes = 64;
inline constexpr uint64_t alignment = 64;         ///< of every piece in a data file
inline constexpr uint64_t block_bytes = 1 << 20;  ///< one CRC32C each

/// `bytes` rounded up to the alignment of pieces.
constexpr uint64_t padded(uint64_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
}

/// Which attempt at saving which step of which run a file belongs to.
struct Origin {
    std::string run_id;  ///< 32 hex digits
    uint64_t step = 0;
    uint64_t attempt = 0;
    bool operator==(const Origin&) const = default;
    /// "run 0123..., step 7, attempt 1"
    std::string text() const;
};

enum class FileKind : uint32_t { data = 1, index = 2, manifest = 3 };

/// The checksummed block at the start and at the end of every data, index and manifest file.
struct Superblock {
    FileKind kind = FileKind::data;
    uint32_t file_number = 0;
    uint64_t file_size = 0;
    Origin origin;
    bool operator==(const Superblock&) const = default;
};

enum class Place { begin, end };

std::array<std::byte, superblock_bytes> encode(const Superblock& block, Place place);

/// Checks a superblock read from `path` against what must be there; errors name the file, the place
/// and what is wrong: not ours, damaged, of a newer format, or of another file, step or run.
void check_superblock(std::span<const std::byte> bytes, Place place, const Superblock& expected,
                      const std::string& path);

/// What COMMIT says: the one record that makes a folder a checkpoint.
struct Commit {
    Origin origin;
    uint64_t manifest_size = 0;
    std::string manifest_hash;  ///< XXH3-128 of the manifest file, 32 hex digits
    bool operator==(const Commit&) const = default;
};

std::string render(const Commit& commit);
/// The inverse; every byte must be what `render` writes. A newer format is refused by name.
Commit parse_commit(std::string_view text, const std::string& path);

inline constexpr const char* commit_name = "COMMIT";
inline constexpr const char* manifest_name = "manifest";
inline constexpr const char* side_folder = "files";
std::string data_name(uint64_t number);   ///< data-00000.bin
std::string index_name(uint64_t number);  ///< data-00000.index

/// step-000000000100.attempt-0001: sorts by step, then by attempt.
std::string folder_name(uint64_t step, uint64_t attempt);
struct FolderName {
    uint64_t step = 0;
    uint64_t attempt = 0;
    auto operator<=>(const FolderName&) const = default;
};
/// Empty for names that `folder_name` does not make.
std::optional<FolderName> parse_folder_name(std::string_view name);

/// The folder that holds a path: "a/b" -> "a", "a" -> ".", "/a" -> "/".
std::string parent_of(const std::string& path);

/// Throws `Refused` for a format that this program does not read.
void check_version(uint64_t version, const std::string& path);
/// Refuses (kind checkpoint) a run id that is not 32 hex digits.
void check_run_id(const std::string& run_id, const std::string& where);
/// Refuses a side file whose name could leave its folder or hide: letters, digits, '.', '_', '-',
/// at most 100 bytes, no leading dot.
void check_side_name(const std::string& name, const std::string& where);

}  // namespace plinth::checkpoints
