// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/io/file.h"

namespace plinth::test {

/// Passes everything on to another file system: the base of doubles that alter one operation.
class ForwardingFiles : public core::io::FileSystem {
  public:
    explicit ForwardingFiles(core::io::FileSystem& base) : base_(base) {}

    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        return base_.open_read(path);
    }
    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        return base_.open_write(path, mode);
    }
    std::unique_ptr<core::io::WritableFile> open_new(const std::string& path) override {
        return base_.open_new(path);
    }
    bool exists(const std::string& path) override { return base_.exists(path); }
    bool is_directory(const std::string& path) override { return base_.is_directory(path); }
    core::io::FileStatus status(const std::string& path) override { return base_.status(path); }
    uint64_t free_bytes(const std::string& folder) override { return base_.free_bytes(folder); }
    std::vector<std::string> list(const std::string& folder) override { return base_.list(folder); }
    void make_directories(const std::string& folder) override { base_.make_directories(folder); }
    bool create_directory(const std::string& folder) override {
        return base_.create_directory(folder);
    }
    void rename(const std::string& from, const std::string& to) override { base_.rename(from, to); }
    void remove(const std::string& path) override { base_.remove(path); }
    void remove_all(const std::string& folder) override { base_.remove_all(folder); }
    void sync_directory(const std::string& folder) override { base_.sync_directory(folder); }

  private:
    core::io::FileSystem& base_;
};

}  // namespace plinth::test
