// SPDX-License-Identifier: Apache-2.0
#include "core/io/compressed.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::core::io {
namespace {

constexpr size_t kChunk = size_t{256} << 10;  // read from the file at once

/// The compressed side of a reader: a window that slides over the file.
class Input {
  public:
    explicit Input(std::unique_ptr<ReadableFile> file) : file_(std::move(file)), buffer_(kChunk) {}

    const std::string& path() const { return file_->path(); }
    uint64_t position() const { return offset_ - (end_ - begin_); }
    std::span<const std::byte> available() const {
        return std::span(buffer_).subspan(begin_, end_ - begin_);
    }
    void consume(size_t count) { begin_ += count; }
    /// Reads on when all is consumed. False at the end of the file.
    bool refill() {
        if (begin_ < end_) return true;
        const size_t count = std::min<uint64_t>(buffer_.size(), file_->size() - offset_);
        file_->read_at(offset_, std::span(buffer_).first(count));
        offset_ += count;
        begin_ = 0;
        end_ = count;
        return count > 0;
    }
    [[noreturn]] void fail(const std::string& reason) const {
        FAIL(data, "{}: at offset {}: {}", path(), position(), reason);
    }

  private:
    std::unique_ptr<ReadableFile> file_;
    std::vector<std::byte> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
    uint64_t offset_ = 0;  ///< the next to read from the file
};

class PlainReader final : public ByteReader {
  public:
    explicit PlainReader(std::unique_ptr<ReadableFile> file) : file_(std::move(file)) {}
    size_t read(std::span<std::byte> out) override {
        const size_t count = std::min<uint64_t>(out.size(), file_->size() - offset_);
        file_->read_at(offset_, out.first(count));
        offset_ += count;
        return count;
    }
    uint64_t position() const override { return offset_; }

  private:
    std::unique_ptr<ReadableFile> file_;
    uint64_t offset_ = 0;
};

class GzipReader final : public ByteReader {
  public:
    explicit GzipReader(std::unique_ptr<ReadableFile> file) : input_(std::move(file)) {
        constexpr int kGzipOnly = 16 + MAX_WBITS;
        CHECK(inflateInit2(&stream_, kGzipOnly) == Z_OK, "zlib cannot start");
    }
    ~GzipReader() override { inflateEnd(&stream_); }
    GzipReader(const GzipReader&) = delete;
    GzipReader& operator=(const GzipReader&) = delete;

    size_t read(std::span<std::byte> out) override {
        stream_.next_out = reinterpret_cast<Bytef*>(out.data());
        stream_.avail_out = static_cast<uInt>(std::min(out.size(), kChunk));
        const uInt wanted = stream_.avail_out;
        while (stream_.avail_out == wanted) {
            if (!input_.refill()) {
                if (inside_member_) input_.fail("the gzip stream is cut off");
                return 0;
            }
            inside_member_ = true;
            if (inflate_some() == Z_STREAM_END) {
                inside_member_ = false;
                inflateReset(&stream_);  // members follow each other
            }
        }
        return wanted - stream_.avail_out;
    }
    uint64_t position() const override { return input_.position(); }

  private:
    int inflate_some() {
        const auto in = input_.available();
        // zlib's interface takes its input as non-const and does not change it.
        stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
        stream_.avail_in = static_cast<uInt>(in.size());
        const int status = inflate(&stream_, Z_NO_FLUSH);
        input_.consume(in.size() - stream_.avail_in);
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            input_.fail(fmt::format("the gzip stream is damaged: {}",
                                    stream_.msg ? stream_.msg : zError(status)));
        return status;
    }

    Input input_;
    z_stream stream_{};
    bool inside_member_ = false;
};

class ZstdReader final : public ByteReader {
  public:
    explicit ZstdReader(std::unique_ptr<ReadableFile> file)
        : input_(std::move(file)), stream_(ZSTD_createDCtx(), ZSTD_freeDCtx) {
        CHECK(stream_ != nullptr, "zstd cannot start");
        constexpr int kLongestWindow = 31;
        CHECK(!ZSTD_isError(
                  ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, kLongestWindow)),
              "zstd refused a window of 2^{}", kLongestWindow);
    }

    size_t read(std::span<std::byte> out) override {
        ZSTD_outBuffer target{out.data(), out.size(), 0};
        while (target.pos == 0) {
            // Even without input the decoder may still hold output of an unfinished frame.
            const bool more = input_.refill();
            if (!more && !inside_frame_) return 0;
            const auto in = input_.available();
            ZSTD_inBuffer source{in.data(), in.size(), 0};
            const size_t status = ZSTD_decompressStream(stream_.get(), &target, &source);
            input_.consume(source.pos);
            if (ZSTD_isError(status))
                input_.fail(
                    fmt::format("the zstd stream is damaged: {}", ZSTD_getErrorName(status)));
            inside_frame_ = status != 0;
            if (!more && inside_frame_ && target.pos == 0)
                input_.fail("the zstd stream is cut off");
        }
        return target.pos;
    }
    uint64_t position() const override { return input_.position(); }

  private:
    Input input_;
    std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> stream_;
    bool inside_frame_ = false;
};

}  // namespace

Compression detect_compression(const ReadableFile& file) {
    std::array<unsigned char, 4> magic{};
    const size_t count = std::min<uint64_t>(magic.size(), file.size());
    file.read_at(0, std::as_writable_bytes(std::span(magic)).first(count));
    if (count >= 2 && magic[0] == 0x1f && magic[1] == 0x8b) return Compression::gzip;
    if (count == 4 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd && magic[0] == 0x28)
        return Compression::zstd;
    // A zstd file may also begin with a skippable frame: 0x184D2A50 .. 5F, little-endian.
    if (count == 4 && (magic[0] & 0xf0) == 0x50 && magic[1] == 0x2a && magic[2] == 0x4d &&
        magic[3] == 0x18)
        return Compression::zstd;
    return Compression::none;
}

std::unique_ptr<ByteReader> open_bytes(std::unique_ptr<ReadableFile> file) {
    switch (detect_compression(*file)) {
        case Compression::gzip:
            return std::make_unique<GzipReader>(std::move(file));
        case Compression::zstd:
            return std::make_unique<ZstdReader>(std::move(file));
        case Compression::none:
            break;
    }
    return std::make_unique<PlainReader>(std::move(file));
}

LineReader::LineReader(std::unique_ptr<ReadableFile> file, LongestLine longest)
    : path_(file->path()),
      longest_(std::move(longest)),
      bytes_(open_bytes(std::move(file))),
      buffer_(kChunk, '\0') {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    while (end_ < kByteOrderMark.size() && refill()) {
    }
    if (std::string_view(buffer_.data(), end_).starts_with(kByteOrderMark))
        begin_ = kByteOrderMark.size();
}

/// Reads more behind the unread part, which moves to the front; doubles the buffer when it is full.
bool LineReader::refill() {
    if (at_end_) return false;
    if (begin_ > 0) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    if (end_ == buffer_.size()) buffer_.resize(buffer_.size() * 2);
    const auto free = std::as_writable_bytes(std::span(buffer_)).subspan(end_);
    const size_t count = bytes_->read(free);
    end_ += count;
    at_end_ = count == 0;
    return !at_end_;
}

void LineReader::require_short(size_t bytes) const {
    REQUIRE(data, bytes <= longest_.bytes, "{}:{}: a line of more than {} bytes{}{}", path_,
            line_number_ + 1, longest_.bytes, longest_.fix.empty() ? "" : ": ", longest_.fix);
}

bool LineReader::next(std::string_view& line) {
    size_t searched = 0;  // this much of the unread part holds no line feed
    for (;;) {
        const char* from = buffer_.data() + begin_;
        const auto* feed =
            static_cast<const char*>(std::memchr(from + searched, '\n', end_ - begin_ - searched));
        if (feed) {
            line = {from, static_cast<size_t>(feed - from)};
            begin_ += line.size() + 1;
            break;
        }
        searched = end_ - begin_;
        require_short(searched);
        if (refill()) continue;
        if (begin_ == end_) return false;
        line = {buffer_.data() + begin_, end_ - begin_};
        begin_ = end_;
        break;
    }
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    require_short(line.size());
    ++line_number_;
    return true;
}

}  // namespace plinth::core::io
