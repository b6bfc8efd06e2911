// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/io/file.h"
#include "core/io/hash.h"

namespace plinth::core::data {

/// What the spill knows about a document beside its tokens.
struct DocumentRecord {
    uint64_t key = 0;       ///< its place in the shuffled order; equal for equal hashes
    io::Hash128 hash;       ///< of the cleaned text
    uint64_t sequence = 0;  ///< its place in the input
    int64_t bytes = 0;      ///< of the cleaned text
    int64_t tokens = 0;
};

/// Tokenised documents on disk, given back ordered by key: an external sort. Documents go to bucket
/// files by the first bits of their keys; a bucket is then sorted in memory, or only its records
/// are while the tokens are read back one by one, or it is cut into smaller ones by the next bits.
/// The order, (key, hash, sequence), depends on none of that. Equal documents meet in one bucket,
/// so the same pass finds exact duplicates.
class DocumentSpill {
  public:
    struct Config {
        std::string folder;      ///< exists, is this spill's own and is the caller's to remove
        int64_t memory;          ///< bytes, for write buffers first and for sorting then
        int64_t expected_bytes;  ///< a guess at the spilled size, from which the buckets follow
        bool wide_tokens;        ///< ids need more than 16 bits
        bool drop_duplicates;    ///< of equal hashes keep the smallest sequence
    };

    DocumentSpill(io::FileSystem& files, Config config);
    ~DocumentSpill();

    /// `record.tokens` is set here.
    void add(DocumentRecord record, std::span<const int32_t> tokens);

    using Visit = std::function<void(const DocumentRecord&, std::span<const int32_t>)>;
    /// Calls `visit` for each document in order; ends the spill and removes its files one by one.
    /// More documents of one key than fit in memory are an error of kind config.
    void drain(const Visit& visit);

    int64_t duplicates() const { return duplicates_; }
    int64_t spilled_bytes() const { return spilled_bytes_; }
    /// The most that buffers, records and loaded tokens took at any time.
    int64_t peak_memory() const { return peak_memory_; }
    /// Buckets that had to be cut again.
    int64_t splits() const { return splits_; }

  private:
    struct Bucket;
    struct Entry;
    class Scanner;

    std::vector<Bucket> make_buckets(const std::string& stem, int bits, int64_t memory) const;
    void append(Bucket& bucket, const DocumentRecord& record, std::span<const std::byte> tokens);
    void flush(Bucket& bucket);
    void close(Bucket& bucket);
    void drain_bucket(Bucket& bucket, int key_bits, const Visit& visit);
    bool read_entries(const io::ReadableFile& file, std::vector<Entry>& entries);
    void sort_and_drop(std::vector<Entry>& entries);
    void split_bucket(const Bucket& bucket, int key_bits, const Visit& visit);
    void note_memory(int64_t bytes) { peak_memory_ = std::max(peak_memory_, bytes); }

    io::FileSystem& files_;
    Config config_;
    int bits_ = 0;  ///< log2 of the number of buckets
    std::vector<Bucket> buckets_;
    std::vector<std::byte> packed_;
    int64_t duplicates_ = 0;
    int64_t spilled_bytes_ = 0;
    int64_t peak_memory_ = 0;
    int64_t splits_ = 0;
};

}  // namespace plinth::core::data
