// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "core/data/token_shard.h"
#include "core/data/token_shard_format.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

static_assert(std::endian::native == std::endian::little,
              "shards are written as they lie in memory");

namespace {
constexpr size_t kBuffer = size_t{1} << 20;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}
}  // namespace

DType token_dtype(int64_t vocab_size) {
    return vocab_size < 65500 ? DType::u16 : DType::i32;
}

struct TokenShardWriter::Output {
    io::FileSystem& files;
    std::string path;
    std::unique_ptr<io::WritableFile> file;
    std::vector<std::byte> buffer;
    io::Xxh3 hash;
    bool exists = true;  ///< under its temporary name

    Output(io::FileSystem& file_system, std::string name)
        : files(file_system),
          path(std::move(name)),
          file(files.open_write(path, io::OpenMode::truncate)) {
        buffer.reserve(kBuffer);
    }
    ~Output() {
        try {
            file.reset();
            if (exists) remove();
        } catch (const Error&) {  // what is left behind carries a temporary name
        }
    }
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;

    void write(std::span<const std::byte> bytes) {
        if (buffer.size() + bytes.size() > kBuffer) flush();
        buffer.insert(buffer.end(), bytes.begin(), bytes.end());
    }
    void flush() {
        if (buffer.empty()) return;
        file->append(buffer);
        hash.update(buffer);
        buffer.clear();
    }
    void close() {
        flush();
        file->sync();
        file->close();
    }
    void remove() {
        exists = false;
        files.remove(path);
    }
    void rename(const std::string& to) {
        files.rename(path, to);
        exists = false;
    }
};

TokenShardWriter::TokenShardWriter(io::FileSystem& files, std::string path, DType dtype)
    : files_(files), path_(std::move(path)), dtype_(dtype) {
    CHECK(dtype == DType::u16 || dtype == DType::i32, "tokens are u16 or i32, not {}",
          name_of(dtype));
    // An .idx of an earlier run must not meet a .bin of this one.
    if (files_.exists(path_ + ".idx")) files_.remove(path_ + ".idx");
    bin_ = &open(".bin");
    lengths_ = &open(".lengths");
    starts_ = &open(".documents");
}

TokenShardWriter::~TokenShardWriter() = default;

TokenShardWriter::Output& TokenShardWriter::open(const char* suffix) {
    outputs_.push_back(std::make_unique<Output>(files_, path_ + suffix + ".tmp"));
    return *outputs_.back();
}

void TokenShardWriter::add_sequence(std::span<const int32_t> tokens) {
    if (tokens.empty()) return;
    REQUIRE(data, tokens.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()),
            "{}.bin: a sequence of {} tokens is longer than the format allows (2^31 - 1)", path_,
            tokens.size());
    const int32_t limit = dtype_ == DType::u16 ? 0xffff : std::numeric_limits<int32_t>::max();
    for (const int32_t token : tokens)
        REQUIRE(data, token >= 0 && token <= limit, "{}.bin: token id {} does not fit into {}",
                path_, token, name_of(dtype_));
    if (dtype_ == DType::i32) {
        bin_->write(std::as_bytes(tokens));
    } else {
        std::array<uint16_t, 4096> narrow;
        for (size_t done = 0; done < tokens.size(); done += narrow.size()) {
            const auto part = tokens.subspan(done, std::min(narrow.size(), tokens.size() - done));
            std::transform(part.begin(), part.end(), narrow.begin(),
                           [](int32_t token) { return static_cast<uint16_t>(token); });
            bin_->write(std::as_bytes(std::span(narrow).first(part.size())));
        }
    }
    lengths_->write(bytes_of(static_cast<int32_t>(tokens.size())));
    tokens_ += static_cast<int64_t>(tokens.size());
    ++sequences_;
}

void TokenShardWriter::end_document() {
    starts_->write(bytes_of(sequences_));
    ended_at_ = sequences_;
    ++documents_;
}

/// Header, lengths, then byte offsets as their running sum, then documents; the spills are read
/// twice and never held.
void TokenShardWriter::write_index() {
    idx_->write(std::as_bytes(std::span(format::kMagic)));
    idx_->write(bytes_of(format::kVersion));
    idx_->write(bytes_of(dtype_ == DType::u16 ? format::kUint16 : format::kInt32));
    idx_->write(bytes_of(static_cast<uint64_t>(sequences_)));
    idx_->write(bytes_of(static_cast<uint64_t>(documents_ + 1)));

    const auto lengths = files_.open_read(lengths_->path);
    format::for_each<int32_t>(*lengths, 0, sequences_,
                              [&](int64_t, int32_t length) { idx_->write(bytes_of(length)); });
    int64_t offset = 0;
    const auto width = static_cast<int64_t>(size_of(dtype_));
    format::for_each<int32_t>(*lengths, 0, sequences_, [&](int64_t, int32_t length) {
        idx_->write(bytes_of(offset));
        offset += length * width;
    });
    idx_->write(bytes_of(int64_t{0}));
    const auto starts = files_.open_read(starts_->path);
    format::for_each<int64_t>(*starts, 0, documents_,
                              [&](int64_t, int64_t start) { idx_->write(bytes_of(start)); });
}

ShardEntry TokenShardWriter::finish() {
    CHECK(ended_at_ == sequences_, "{}: the last document was not ended", path_);
    CHECK(idx_ == nullptr, "{}: finished twice", path_);
    bin_->close();
    lengths_->close();
    starts_->close();
    idx_ = &open(".idx");
    write_index();
    idx_->close();
    lengths_->remove();
    starts_->remove();
    bin_->rename(path_ + ".bin");
    idx_->rename(path_ + ".idx");
    const size_t slash = path_.rfind('/');
    files_.sync_directory(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
    ShardEntry entry;
    entry.tokens = tokens_;
    entry.documents = documents_;
    entry.bin_xxh3 = io::to_hex(bin_->hash.digest64());
    entry.idx_xxh3 = io::to_hex(idx_->hash.digest64());
    return entry;
}

}  // namespace plinth::core::data
