// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/forwarding_files.h"

namespace plinth::checkpoints::test {

/// Counts the bytes that are read of data files.
class CountingFiles final : public plinth::test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        auto file = ForwardingFiles::open_read(path);
        if (!path.ends_with(".bin")) return file;
        return std::make_unique<File>(std::move(file), bytes_);
    }
    uint64_t bytes() const { return bytes_; }
    void forget() { bytes_ = 0; }

  private:
    class File final : public core::io::ReadableFile {
      public:
        File(std::unique_ptr<core::io::ReadableFile> base, std::atomic<uint64_t>& bytes)
            : base_(std::move(base)), bytes_(bytes) {}
        const std::string& path() const override { return base_->path(); }
        uint64_t size() const override { return base_->size(); }
        void read_at(uint64_t offset, std::span<std::byte> out) const override {
            bytes_ += out.size();
            base_->read_at(offset, out);
        }

      private:
        std::unique_ptr<core::io::ReadableFile> base_;
        std::atomic<uint64_t>& bytes_;
    };
    std::atomic<uint64_t> bytes_{0};
};

}  // namespace plinth::checkpoints::test
