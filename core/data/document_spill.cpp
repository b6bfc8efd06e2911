// SPDX-License-Identifier: Apache-2.0
#include "core/data/document_spill.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

constexpr int most_bits = 8;   ///< at most 256 open files
constexpr int split_bits = 4;  ///< a bucket that is too large becomes 16
constexpr int64_t least_buffer = int64_t{16} << 10;
constexpr int64_t most_buffer = int64_t{1} << 20;
constexpr uint64_t scan_size = uint64_t{1} << 18;

std::span<const std::byte> bytes_of(const DocumentRecord& record) {
    return std::as_bytes(std::span(&record, 1));
}

}  // namespace

// Spill files are written and read by one process, so the struct itself is their format.
static_assert(std::is_trivially_copyable_v<DocumentRecord> && sizeof(DocumentRecord) == 48);

struct DocumentSpill::Bucket {
    std::string path;
    size_t buffer_size = 0;
    std::vector<std::byte> buffer;
    std::unique_ptr<io::WritableFile> file;  ///< opened by the first flush
    int64_t bytes = 0;
};

/// A record of the bucket being sorted, and where its tokens lie in the file.
struct DocumentSpill::Entry {
    DocumentRecord record;
    uint64_t offset;
};

/// Reads a bucket file from beginning to end through a window.
class DocumentSpill::Scanner {
  public:
    explicit Scanner(const io::ReadableFile& file) : file_(file) {}

    bool at_end() const { return offset_ == file_.size(); }
    uint64_t offset() const { return offset_; }
    void skip(uint64_t bytes) { offset_ += bytes; }
    void read(std::span<std::byte> out) {
        if (out.empty()) return;
        if (out.size() > scan_size) {
            file_.read_at(offset_, out);
        } else {
            if (offset_ < begin_ || offset_ + out.size() > begin_ + window_.size()) {
                begin_ = offset_;
                window_.resize(std::min(scan_size, file_.size() - offset_));
                CHECK(out.size() <= window_.size(), "{}: cut off", file_.path());
                file_.read_at(begin_, window_);
            }
            std::memcpy(out.data(), window_.data() + (offset_ - begin_), out.size());
        }
        offset_ += out.size();
    }

  private:
    const io::ReadableFile& file_;
    uint64_t offset_ = 0;
    uint64_t begin_ = 0;  ///< of the window in the file
    std::vector<std::byte> window_;
};

DocumentSpill::DocumentSpill(io::FileSystem& files, Config config)
    : files_(files), config_(std::move(config)) {
    // Buckets that can be sorted whole, as far as the buffers' memory allows.
    const int64_t wanted = 2 * config_.expected_bytes / std::max<int64_t>(config_.memory, 1) + 1;
    const int64_t affordable = std::max<int64_t>(config_.memory / 2 / least_buffer, 1);
    const auto count = static_cast<uint64_t>(std::min(wanted, affordable));
    bits_ = std::min(most_bits, static_cast<int>(std::bit_width(count)) - 1);
    if (wanted > 1 && bits_ == 0) bits_ = 1;
    buckets_ = make_buckets("bucket", bits_, config_.memory / 2);
}

DocumentSpill::~DocumentSpill() = default;

std::vector<DocumentSpill::Bucket> DocumentSpill::make_buckets(const std::string& stem, int bits,
                                                               int64_t memory) const {
    std::vector<Bucket> buckets(size_t{1} << bits);
    const int64_t share = memory / static_cast<int64_t>(buckets.size());
    for (size_t i = 0; i < buckets.size(); ++i) {
        buckets[i].path = io::join(config_.folder, fmt::format("{}-{:03}", stem, i));
        buckets[i].buffer_size = static_cast<size_t>(std::clamp(share, least_buffer, most_buffer));
    }
    return buckets;
}

void DocumentSpill::add(DocumentRecord record, std::span<const int32_t> tokens) {
    record.tokens = static_cast<int64_t>(tokens.size());
    packed_.resize(tokens.size() * (config_.wide_tokens ? 4 : 2));
    if (config_.wide_tokens) {
        std::ranges::copy(std::as_bytes(tokens), packed_.begin());
    } else {
        for (size_t i = 0; i < tokens.size(); ++i) {
            const auto narrow = static_cast<uint16_t>(tokens[i]);
            std::memcpy(packed_.data() + 2 * i, &narrow, 2);
        }
    }
    append(buckets_[bits_ == 0 ? 0 : record.key >> (64 - bits_)], record, packed_);
    spilled_bytes_ += static_cast<int64_t>(sizeof record + packed_.size());
}

void DocumentSpill::append(Bucket& bucket, const DocumentRecord& record,
                           std::span<const std::byte> tokens) {
    bucket.bytes += static_cast<int64_t>(sizeof record + tokens.size());
    for (std::span<const std::byte> part : {bytes_of(record), tokens}) {
        while (!part.empty()) {
            const size_t room = bucket.buffer_size - bucket.buffer.size();
            const auto piece = part.first(std::min(room, part.size()));
            bucket.buffer.reserve(bucket.buffer_size);
            bucket.buffer.insert(bucket.buffer.end(), piece.begin(), piece.end());
            part = part.subspan(piece.size());
            if (bucket.buffer.size() == bucket.buffer_size) flush(bucket);
        }
    }
}

void DocumentSpill::flush(Bucket& bucket) {
    if (bucket.file == nullptr) {
        bucket.file = files_.open_write(bucket.path, io::OpenMode::create_new);
    }
    bucket.file->append(bucket.buffer);
    bucket.buffer.clear();
}

void DocumentSpill::close(Bucket& bucket) {
    flush(bucket);
    bucket.file->close();
    bucket.file.reset();
    bucket.buffer = {};
}

void DocumentSpill::drain(const Visit& visit) {
    int64_t buffers = 0;
    for (const Bucket& bucket : buckets_)
        buffers += static_cast<int64_t>(bucket.buffer.capacity());
    note_memory(buffers);
    for (Bucket& bucket : buckets_) {
        if (bucket.bytes > 0) close(bucket);
    }
    for (Bucket& bucket : buckets_) {
        if (bucket.bytes > 0) drain_bucket(bucket, bits_, visit);
    }
}

/// `key_bits` leading bits are the same in all keys of the bucket.
void DocumentSpill::drain_bucket(Bucket& bucket, int key_bits, const Visit& visit) {
    const auto file = files_.open_read(bucket.path);
    std::vector<Entry> entries;
    if (!read_entries(*file, entries)) {
        entries = {};
        split_bucket(bucket, key_bits, visit);
        return;
    }
    std::vector<std::byte> loaded;
    const auto records = static_cast<int64_t>(entries.capacity() * sizeof(Entry));
    if (bucket.bytes + records <= config_.memory) {
        loaded.resize(file->size());
        file->read_at(0, loaded);
    }
    note_memory(records + static_cast<int64_t>(loaded.size()));
    std::vector<std::byte> packed;
    std::vector<int32_t> tokens;
    for (const Entry& entry : entries) {
        const auto count = static_cast<size_t>(entry.record.tokens);
        const size_t size = count * (config_.wide_tokens ? 4 : 2);
        std::span<const std::byte> source;
        if (loaded.empty()) {
            packed.resize(size);
            file->read_at(entry.offset, packed);
            source = packed;
        } else {
            source = std::span(loaded).subspan(entry.offset, size);
        }
        tokens.resize(count);
        if (config_.wide_tokens) {
            std::ranges::copy(source, std::as_writable_bytes(std::span(tokens)).begin());
        } else {
            for (size_t i = 0; i < count; ++i) {
                uint16_t narrow;
                std::memcpy(&narrow, source.data() + 2 * i, 2);
                tokens[i] = narrow;
            }
        }
        visit(entry.record, tokens);
    }
    files_.remove(bucket.path);
}

/// Reads and sorts the records of a bucket; false if they do not fit in half of the memory.
bool DocumentSpill::read_entries(const io::ReadableFile& file, std::vector<Entry>& entries) {
    const size_t limit = static_cast<size_t>(config_.memory) / 2 / sizeof(Entry);
    const int64_t duplicates_before = duplicates_;
    const uint64_t token_size = config_.wide_tokens ? 4 : 2;
    Scanner scanner(file);
    while (!scanner.at_end()) {
        if (entries.size() >= limit) {
            sort_and_drop(entries);
            if (entries.size() > limit / 4 * 3) {
                duplicates_ = duplicates_before;
                return false;
            }
        }
        if (entries.size() == entries.capacity()) {
            entries.reserve(std::min(limit + 1, std::max<size_t>(2 * entries.size(), 64)));
        }
        DocumentRecord record;
        scanner.read(std::as_writable_bytes(std::span(&record, 1)));
        entries.push_back({record, scanner.offset()});
        scanner.skip(static_cast<uint64_t>(record.tokens) * token_size);
    }
    sort_and_drop(entries);
    return true;
}

void DocumentSpill::sort_and_drop(std::vector<Entry>& entries) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return std::tie(a.record.key, a.record.hash, a.record.sequence) <
               std::tie(b.record.key, b.record.hash, b.record.sequence);
    });
    if (!config_.drop_duplicates) return;
    const auto end =
        std::unique(entries.begin(), entries.end(),
                    [](const Entry& a, const Entry& b) { return a.record.hash == b.record.hash; });
    duplicates_ += entries.end() - end;
    entries.erase(end, entries.end());
}

void DocumentSpill::split_bucket(const Bucket& bucket, int key_bits, const Visit& visit) {
    REQUIRE(config, key_bits + split_bits <= 64,
            "memory: {} bytes cannot hold the records of {} bytes of equal documents; raise it or "
            "set deduplicate=true",
            config_.memory, bucket.bytes);
    ++splits_;
    const int shift = 64 - key_bits - split_bits;
    const auto stem = bucket.path.substr(bucket.path.rfind('/') + 1);
    std::vector<Bucket> parts = make_buckets(stem, split_bits, config_.memory / 4);
    {
        const auto file = files_.open_read(bucket.path);
        Scanner scanner(*file);
        std::vector<std::byte> tokens;
        while (!scanner.at_end()) {
            DocumentRecord record;
            scanner.read(std::as_writable_bytes(std::span(&record, 1)));
            tokens.resize(static_cast<size_t>(record.tokens) * (config_.wide_tokens ? 4 : 2));
            scanner.read(tokens);
            append(parts[record.key >> shift & ((1u << split_bits) - 1)], record, tokens);
        }
    }
    files_.remove(bucket.path);
    for (Bucket& part : parts) {
        if (part.bytes > 0) close(part);
    }
    for (Bucket& part : parts) {
        if (part.bytes > 0) drain_bucket(part, key_bits + split_bits, visit);
    }
}

}  // namespace plinth::core::data
