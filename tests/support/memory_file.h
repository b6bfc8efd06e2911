// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <string>
#include <utility>

#include "core/io/file.h"
#include "kernels/runtime/error.h"

namespace plinth::test {

/// A readable file whose content is a string.
class MemoryFile final : public core::io::ReadableFile {
  public:
    explicit MemoryFile(std::string content, std::string path = "memory")
        : content_(std::move(content)), path_(std::move(path)) {}
    const std::string& path() const override { return path_; }
    uint64_t size() const override { return content_.size(); }
    void read_at(uint64_t offset, std::span<std::byte> out) const override {
        REQUIRE(io, offset <= content_.size() && out.size() <= content_.size() - offset,
                "cannot read {} bytes at offset {} of {}: the file ends at offset {}", out.size(),
                offset, path_, content_.size());
        if (!out.empty()) std::memcpy(out.data(), content_.data() + offset, out.size());
    }

  private:
    std::string content_;
    std::string path_;
};

}  // namespace plinth::test
