// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/io/file.h"

namespace plinth::core::io {

enum class Compression { none, gzip, zstd };

/// By the first bytes; names mean nothing.
Compression detect_compression(const ReadableFile& file);

/// The content of a file from beginning to end, decompressed as it is read. gzip files may hold
/// many members and zstd files many frames (skippable ones too), with windows up to 2 GiB. A
/// truncated or damaged stream is an error of kind data that names the file and the offset in it.
class ByteReader {
  public:
    virtual ~ByteReader() = default;
    /// Fills the front of `out`, which is not empty; returns the count, 0 only at the end.
    virtual size_t read(std::span<std::byte> out) = 0;
    /// Bytes of the file itself consumed so far, for progress.
    virtual uint64_t position() const = 0;
};

/// Chooses by `detect_compression`.
std::unique_ptr<ByteReader> open_bytes(std::unique_ptr<ReadableFile> file);

/// How long a line may be, for what would not fit into memory.
struct LongestLine {
    size_t bytes = SIZE_MAX;
    std::string fix;  ///< what the message about a longer one says can be done
};

/// The lines of a file. One that is too long is an error of kind data that names file and line, and
/// no more of it is read than that takes. A byte-order mark at the start of the file and the
/// carriage return of a CRLF are removed; the last line need not end with a line feed.
class LineReader {
  public:
    explicit LineReader(std::unique_ptr<ReadableFile> file, LongestLine longest = {});
    /// False at the end. The line is valid until the next call.
    bool next(std::string_view& line);
    uint64_t line_number() const { return line_number_; }  ///< of the latest line, from 1
    uint64_t position() const { return bytes_->position(); }

  private:
    bool refill();
    void require_short(size_t bytes) const;

    std::string path_;
    LongestLine longest_;
    std::unique_ptr<ByteReader> bytes_;
    std::string buffer_;
    size_t begin_ = 0;  ///< the unread part of the buffer is [begin_, end_)
    size_t end_ = 0;
    uint64_t line_number_ = 0;
    bool at_end_ = false;
};

}  // namespace plinth::core::io
