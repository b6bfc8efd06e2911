// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/io/file.h"
#include "kernels/runtime/error.h"

namespace plinth::test {

/// Which operation fails, and how.
struct Fault {
    int64_t operation = -1;  ///< number of the failing operation from 0; -1: none fails
    int reason = ENOSPC;     ///< errno named in the message, such as ENOSPC or EIO
    bool sticky = false;     ///< every later operation fails too: a dead disk, or a killed process
    bool short_write = false;  ///< a failing write leaves the first half of its bytes behind
    bool writes_only = false;  ///< count only what changes the disk: writes, syncs, names
};

/// A file system that counts every operation on another one and fails the k-th. Run once with no
/// fault to learn the number of operations, then once for each k. Thread safe.
class FaultyFiles final : public core::io::FileSystem {
  public:
    explicit FaultyFiles(core::io::FileSystem& base, Fault fault = {})
        : base_(base), fault_(fault) {}

    int64_t operations() const { return count_; }
    bool failed() const { return failed_; }

    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        check(Kind::read, "open", path);
        return std::make_unique<Readable>(*this, base_.open_read(path));
    }
    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        check(Kind::write, "create", path);
        return std::make_unique<Writable>(*this, base_.open_write(path, mode));
    }
    std::unique_ptr<core::io::WritableFile> open_new(const std::string& path) override {
        check(Kind::write, "create", path);
        auto file = base_.open_new(path);
        if (!file) return nullptr;
        return std::make_unique<Writable>(*this, std::move(file));
    }
    bool exists(const std::string& path) override {
        check(Kind::read, "stat", path);
        return base_.exists(path);
    }
    bool is_directory(const std::string& path) override {
        check(Kind::read, "stat", path);
        return base_.is_directory(path);
    }
    core::io::FileStatus status(const std::string& path) override {
        check(Kind::read, "stat", path);
        return base_.status(path);
    }
    uint64_t free_bytes(const std::string& folder) override {
        check(Kind::read, "measure the free space of", folder);
        return base_.free_bytes(folder);
    }
    std::vector<std::string> list(const std::string& folder) override {
        check(Kind::read, "list", folder);
        return base_.list(folder);
    }
    void make_directories(const std::string& folder) override {
        check(Kind::write, "create the folder", folder);
        base_.make_directories(folder);
    }
    bool create_directory(const std::string& folder) override {
        check(Kind::write, "create the folder", folder);
        return base_.create_directory(folder);
    }
    void rename(const std::string& from, const std::string& to) override {
        check(Kind::write, "rename", from);
        base_.rename(from, to);
    }
    void remove(const std::string& path) override {
        check(Kind::write, "remove", path);
        base_.remove(path);
    }
    void remove_all(const std::string& folder) override {
        check(Kind::write, "remove the folder", folder);
        base_.remove_all(folder);
    }
    void sync_directory(const std::string& folder) override {
        check(Kind::write, "sync the folder", folder);
        base_.sync_directory(folder);
    }

  private:
    enum class Kind { read, write };

    class Readable final : public core::io::ReadableFile {
      public:
        Readable(FaultyFiles& owner, std::unique_ptr<core::io::ReadableFile> base)
            : owner_(owner), base_(std::move(base)) {}
        const std::string& path() const override { return base_->path(); }
        uint64_t size() const override { return base_->size(); }
        void read_at(uint64_t offset, std::span<std::byte> out) const override {
            owner_.check(Kind::read, "read", path());
            base_->read_at(offset, out);
        }

      private:
        FaultyFiles& owner_;
        std::unique_ptr<core::io::ReadableFile> base_;
    };

    class Writable final : public core::io::WritableFile {
      public:
        Writable(FaultyFiles& owner, std::unique_ptr<core::io::WritableFile> base)
            : owner_(owner), base_(std::move(base)) {}
        const std::string& path() const override { return base_->path(); }
        void append(std::span<const std::byte> bytes) override {
            if (owner_.fails(Kind::write)) {
                if (owner_.fault_.short_write) base_->append(bytes.first(bytes.size() / 2));
                owner_.fail("write", path());
            }
            base_->append(bytes);
        }
        void write_at(uint64_t offset, std::span<const std::byte> bytes) override {
            if (owner_.fails(Kind::write)) {
                if (owner_.fault_.short_write)
                    base_->write_at(offset, bytes.first(bytes.size() / 2));
                owner_.fail("write", path());
            }
            base_->write_at(offset, bytes);
        }
        void sync() override {
            owner_.check(Kind::write, "sync", path());
            base_->sync();
        }
        void close() override {
            owner_.check(Kind::write, "close", path());
            base_->close();
        }

      private:
        FaultyFiles& owner_;
        std::unique_ptr<core::io::WritableFile> base_;
    };

    bool fails(Kind kind) {
        if (fault_.writes_only && kind == Kind::read) return false;
        const int64_t number = count_++;
        const bool hit = fault_.operation >= 0 && (number == fault_.operation ||
                                                   (fault_.sticky && number > fault_.operation));
        if (hit) failed_ = true;
        return hit;
    }
    [[noreturn]] void fail(const char* operation, const std::string& path) const {
        FAIL(io, "cannot {} {}: {} (injected)", operation, path, std::strerror(fault_.reason));
    }
    void check(Kind kind, const char* operation, const std::string& path) {
        if (fails(kind)) fail(operation, path);
    }

    core::io::FileSystem& base_;
    const Fault fault_;
    std::atomic<int64_t> count_{0};
    std::atomic<bool> failed_{false};
};

}  // namespace plinth::test
