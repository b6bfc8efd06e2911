// SPDX-License-Identifier: Apache-2.0
// The operating system's files behind the FileSystem seam, and the helpers built on any FileSystem.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/io/file.h"
#include "kernels/runtime/error.h"

namespace plinth::core::io {
namespace {

// One system call moves at most this much: Linux refuses more than 2 GiB - 4 KiB, and smaller
// pieces let a process stop in good time.
constexpr size_t kPiece = size_t{256} << 20;

[[noreturn]] void fail(const char* operation, const std::string& path, int error) {
    FAIL(io, "cannot {} {}: {}", operation, path, std::strerror(error));
}

/// Repeats a system call that a signal interrupted.
template <typename Call>
auto retry(Call&& call) {
    decltype(call()) result;
    do {
        result = call();
    } while (result < 0 && errno == EINTR);
    return result;
}

/// Owns a file descriptor.
class Descriptor {
  public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return number_; }
    /// Linux frees the descriptor whatever close returns, so it is never closed twice.
    int close() {
        const int number = number_;
        number_ = -1;
        return ::close(number);
    }

  private:
    int number_;
};

class PosixReadable final : public ReadableFile {
  public:
    explicit PosixReadable(const std::string& path)
        : path_(path), file_(retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); })) {
        if (file_.get() < 0) fail("open", path_, errno);
        struct stat status {};
        if (::fstat(file_.get(), &status) != 0) fail("stat", path_, errno);
        if (S_ISDIR(status.st_mode)) fail("open", path_, EISDIR);
        size_ = static_cast<uint64_t>(status.st_size);
    }

    const std::string& path() const override { return path_; }
    uint64_t size() const override { return size_; }

    void read_at(uint64_t offset, std::span<std::byte> out) const override {
        size_t done = 0;
        while (done < out.size()) {
            const size_t wanted = std::min(out.size() - done, kPiece);
            const ssize_t count = retry([&] {
                return ::pread(file_.get(), out.data() + done, wanted,
                               static_cast<off_t>(offset + done));
            });
            if (count < 0)
                FAIL(io, "cannot read {} bytes at offset {} of {}: {}", out.size(), offset, path_,
                     std::strerror(errno));
            REQUIRE(io, count > 0,
                    "cannot read {} bytes at offset {} of {}: the file ends at offset {}",
                    out.size(), offset, path_, std::max(offset + done, size_));
            done += static_cast<size_t>(count);
        }
    }

  private:
    std::string path_;
    Descriptor file_;
    uint64_t size_ = 0;
};

int flags_of(OpenMode mode) {
    switch (mode) {
        case OpenMode::create_new:
            return O_CREAT | O_EXCL;
        case OpenMode::truncate:
            return O_CREAT | O_TRUNC;
        case OpenMode::update:
            return O_CREAT;
        case OpenMode::append:
            return O_CREAT;  // our own offset: O_APPEND would make pwrite ignore its offset
    }
    return 0;
}

int open_for_writing(const std::string& path, OpenMode mode) {
    return retry([&] { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags_of(mode), 0666); });
}

class PosixWritable final : public WritableFile {
  public:
    /// What `open_for_writing` returned for that path and mode.
    PosixWritable(const std::string& path, OpenMode mode, int number) : path_(path), file_(number) {
        if (file_.get() < 0) fail(mode == OpenMode::update ? "open" : "create", path_, errno);
        if (mode != OpenMode::append) return;
        struct stat status {};
        if (::fstat(file_.get(), &status) != 0) fail("stat", path_, errno);
        end_ = static_cast<uint64_t>(status.st_size);
    }

    const std::string& path() const override { return path_; }

    void append(std::span<const std::byte> bytes) override {
        write_at(end_, bytes);
        end_ += bytes.size();
    }

    void write_at(uint64_t offset, std::span<const std::byte> bytes) override {
        CHECK(file_.get() >= 0, "write to the closed file {}", path_);
        size_t done = 0;
        while (done < bytes.size()) {
            const size_t wanted = std::min(bytes.size() - done, kPiece);
            const ssize_t count = retry([&] {
                return ::pwrite(file_.get(), bytes.data() + done, wanted,
                                static_cast<off_t>(offset + done));
            });
            if (count <= 0)
                FAIL(io, "cannot write {} bytes at offset {} of {} ({} of them written): {}",
                     bytes.size(), offset, path_, done,
                     count < 0 ? std::strerror(errno) : "the system wrote nothing");
            done += static_cast<size_t>(count);
        }
    }

    void sync() override {
        CHECK(file_.get() >= 0, "sync of the closed file {}", path_);
        if (retry([&] { return ::fsync(file_.get()); }) != 0) fail("sync", path_, errno);
    }

    void close() override {
        if (file_.get() < 0) return;
        if (file_.close() != 0 && errno != EINTR) fail("close", path_, errno);
    }

  private:
    std::string path_;
    Descriptor file_;
    uint64_t end_ = 0;  ///< where `append` continues
};

class Posix final : public FileSystem {
  public:
    std::unique_ptr<ReadableFile> open_read(const std::string& path) override {
        return std::make_unique<PosixReadable>(path);
    }

    std::unique_ptr<WritableFile> open_write(const std::string& path, OpenMode mode) override {
        return std::make_unique<PosixWritable>(path, mode, open_for_writing(path, mode));
    }

    std::unique_ptr<WritableFile> open_new(const std::string& path) override {
        const int number = open_for_writing(path, OpenMode::create_new);
        if (number < 0 && errno == EEXIST) return nullptr;
        return std::make_unique<PosixWritable>(path, OpenMode::create_new, number);
    }

    bool exists(const std::string& path) override {
        struct stat status {};
        return status_of(path, status);
    }

    bool is_directory(const std::string& path) override {
        struct stat status {};
        return status_of(path, status) && S_ISDIR(status.st_mode);
    }

    FileStatus status(const std::string& path) override {
        struct stat found {};
        if (::stat(path.c_str(), &found) != 0) {
            if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) fail("stat", path, errno);
            return {};
        }
        using Kind = FileStatus::Kind;
        const Kind kind = S_ISREG(found.st_mode)   ? Kind::file
                          : S_ISDIR(found.st_mode) ? Kind::folder
                                                   : Kind::other;
        return {kind, found.st_dev, found.st_ino};
    }

    uint64_t free_bytes(const std::string& folder) override {
        struct statvfs disk {};
        if (retry([&] { return ::statvfs(folder.c_str(), &disk); }) != 0)
            fail("measure the free space of", folder, errno);
        if (disk.f_blocks == 0) return UINT64_MAX;  // a file system that does not say
        return uint64_t{disk.f_bavail} * disk.f_frsize;
    }

    std::vector<std::string> list(const std::string& folder) override {
        const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(folder.c_str()), ::closedir);
        if (!entries) fail("list", folder, errno);
        std::vector<std::string> names;
        for (;;) {
            errno = 0;
            const dirent* entry = ::readdir(entries.get());
            if (!entry) break;
            const std::string name = entry->d_name;
            if (name != "." && name != "..") names.push_back(name);
        }
        if (errno != 0) fail("list", folder, errno);
        std::sort(names.begin(), names.end());
        return names;
    }

    void make_directories(const std::string& folder) override {
        std::error_code error;
        std::filesystem::create_directories(folder, error);
        if (error) fail("create the folder", folder, error.value());
        if (!is_directory(folder)) fail("create the folder", folder, ENOTDIR);
    }

    bool create_directory(const std::string& folder) override {
        if (::mkdir(folder.c_str(), 0777) == 0) return true;
        if (errno != EEXIST) fail("create the folder", folder, errno);
        return false;
    }

    void rename(const std::string& from, const std::string& to) override {
        if (std::rename(from.c_str(), to.c_str()) != 0)
            FAIL(io, "cannot rename {} to {}: {}", from, to, std::strerror(errno));
    }

    void remove(const std::string& path) override {
        if (std::remove(path.c_str()) != 0) fail("remove", path, errno);
    }

    void remove_all(const std::string& folder) override {
        std::error_code error;
        std::filesystem::remove_all(folder, error);
        if (error) fail("remove the folder", folder, error.value());
    }

    void sync_directory(const std::string& folder) override {
        const char* path = folder.empty() ? "." : folder.c_str();
        Descriptor file(retry([&] { return ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
        if (file.get() < 0) fail("open the folder", path, errno);
        if (retry([&] { return ::fsync(file.get()); }) != 0) fail("sync the folder", path, errno);
    }

  private:
    /// False when nothing is there; other refusals (permission, I/O) are errors, not "missing".
    static bool status_of(const std::string& path, struct stat& status) {
        if (::stat(path.c_str(), &status) == 0) return true;
        if (errno != ENOENT && errno != ENOTDIR) fail("stat", path, errno);
        return false;
    }
};

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

FileSystem& posix() {
    static Posix files;
    return files;
}

std::string read_all(FileSystem& files, const std::string& path) {
    const auto file = files.open_read(path);
    std::string content(file->size(), '\0');
    file->read_at(0, std::as_writable_bytes(std::span(content)));
    return content;
}

std::optional<std::string> read_if_there(FileSystem& files, const std::string& path) {
    constexpr int looks = 4;  // a file may be replaced under one of them, as on NFS
    for (int look = 1;; ++look) {
        try {
            return read_all(files, path);
        } catch (const Error&) {
            if (!files.exists(path)) return {};
            if (look == looks) throw;
        }
    }
}

void write_atomically(FileSystem& files, const std::string& path, std::string_view content) {
    // Named by process: two writers of one path do not write into each other's temporary file.
    const std::string temporary = fmt::format("{}.tmp-{}", path, ::getpid());
    try {
        const auto file = files.open_write(temporary, OpenMode::truncate);
        file->append(std::as_bytes(std::span(content)));
        file->sync();
        file->close();
        files.rename(temporary, path);
    } catch (...) {
        try {
            if (files.exists(temporary)) files.remove(temporary);
        } catch (const Error&) {  // the first error is the one to report
        }
        throw;
    }
    files.sync_directory(folder_of(path));
}

std::string join(const std::string& folder, const std::string& name) {
    if (folder.empty() || (!name.empty() && name.front() == '/')) return name;
    if (name.empty()) return folder;
    return folder.back() == '/' ? folder + name : folder + "/" + name;
}

}  // namespace plinth::core::io
