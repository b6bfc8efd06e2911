// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace plinth::core::io {

/// A file opened for positioned reads. Thread safe: reads share no offset.
class ReadableFile {
  public:
    virtual ~ReadableFile() = default;
    virtual const std::string& path() const = 0;
    virtual uint64_t size() const = 0;
    /// Fills `out` from `offset`. Reading past the end is an error of kind io that names path and
    /// offset.
    virtual void read_at(uint64_t offset, std::span<std::byte> out) const = 0;
};

/// A file opened for writing. Nothing is durable before `sync`. `close` reports what the destructor
/// must swallow.
class WritableFile {
  public:
    virtual ~WritableFile() = default;
    virtual const std::string& path() const = 0;
    /// After an error the next one begins where the failed one began.
    virtual void append(std::span<const std::byte> bytes) = 0;
    virtual void write_at(uint64_t offset, std::span<const std::byte> bytes) = 0;
    virtual void sync() = 0;
    virtual void close() = 0;
};

enum class OpenMode {
    create_new,  ///< fails if the file exists
    truncate,    ///< creates or empties
    update,      ///< opens an existing or new file for `write_at`, keeping its content
    append,      ///< creates or continues at the end
};

/// What a name leads to, links followed.
struct FileStatus {
    enum class Kind {
        none,    ///< nothing, as a link to nothing does
        file,    ///< with content of a size
        folder,  ///< that can be listed
        other,   ///< a pipe, a socket or a device
    };
    Kind kind = Kind::none;
    /// Together the same for all names of one file or folder.
    uint64_t device = 0, number = 0;
};

/// Every file operation of Plinth goes through this seam, so that tests can inject faults at any of
/// them. All errors are of kind io and name the operation, the path and the system's reason.
class FileSystem {
  public:
    virtual ~FileSystem() = default;
    virtual std::unique_ptr<ReadableFile> open_read(const std::string& path) = 0;
    virtual std::unique_ptr<WritableFile> open_write(const std::string& path, OpenMode mode) = 0;
    virtual bool exists(const std::string& path) = 0;
    virtual bool is_directory(const std::string& path) = 0;
    virtual FileStatus status(const std::string& path) = 0;
    /// Bytes that this user may still write to the disk that holds an existing folder;
    /// UINT64_MAX where the file system does not say.
    virtual uint64_t free_bytes(const std::string& folder) = 0;
    /// Names (not paths) in a folder, sorted bytewise.
    virtual std::vector<std::string> list(const std::string& folder) = 0;
    /// Creates the folder and its parents; existing ones are fine.
    virtual void make_directories(const std::string& folder) = 0;
    /// Creates one folder whose parent exists; false, and nothing happens, if the name is taken. Of
    /// several processes that ask at the same time exactly one is told true.
    virtual bool create_directory(const std::string& folder) = 0;
    virtual void rename(const std::string& from, const std::string& to) = 0;
    virtual void remove(const std::string& path) = 0;
    /// Removes a folder with all in it; a missing one is fine.
    virtual void remove_all(const std::string& folder) = 0;
    /// Makes created, renamed and removed names in the folder durable.
    virtual void sync_directory(const std::string& folder) = 0;
    /// Creates a file that is not there; null, and nothing happens, if the name is taken. Of
    /// several processes that ask at the same time exactly one gets a file.
    virtual std::unique_ptr<WritableFile> open_new(const std::string& path) = 0;
};

/// The operating system's files. Writes and reads continue after EINTR and short counts.
FileSystem& posix();

/// Whole small files.
std::string read_all(FileSystem& files, const std::string& path);
/// The same of a file that others may remove or replace meanwhile; empty if it is not there.
std::optional<std::string> read_if_there(FileSystem& files, const std::string& path);
/// Temporary file, fsync, rename, fsync of the folder: readers see the old content or the new,
/// never a mix.
void write_atomically(FileSystem& files, const std::string& path, std::string_view content);

/// "a/b" from "a" and "b"; an absolute second part wins.
std::string join(const std::string& folder, const std::string& name);

}  // namespace plinth::core::io
