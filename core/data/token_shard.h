// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/manifest.h"
#include "core/io/file.h"
#include "core/io/hash.h"
#include "kernels/runtime/dtype.h"

namespace plinth::core::data {

/// Token shards are Megatron-LM indexed data sets: PREFIX.bin holds the tokens of all sequences,
/// PREFIX.idx a header, the sequences' lengths and byte offsets, and the sequence at which each
/// document begins. All integers are little-endian; docs/data.md shows the bytes.
///
/// uint16 for vocabularies below 65,500 ids, else int32: the field's rule, which other readers
/// expect.
DType token_dtype(int64_t vocab_size);

/// Writes one shard with a few buffers of memory, whatever its size. Everything goes to temporary
/// names; `finish` makes it durable and renames, .idx last: an interruption leaves no .idx, and a
/// shard without one is nothing.
class TokenShardWriter {
  public:
    /// `path` is PREFIX with its folder, which exists. Replaces an older shard of that name.
    TokenShardWriter(io::FileSystem& files, std::string path, DType dtype);
    /// Removes the temporary files of a shard that was not finished.
    ~TokenShardWriter();
    TokenShardWriter(const TokenShardWriter&) = delete;
    TokenShardWriter& operator=(const TokenShardWriter&) = delete;

    /// A sequence of the current document. Ids that the dtype cannot hold are an error of kind
    /// data. An empty sequence adds nothing.
    void add_sequence(std::span<const int32_t> tokens);
    /// Ends the current document, which may hold no sequence.
    void end_document();
    /// The usual document: one sequence.
    void add_document(std::span<const int32_t> tokens) {
        add_sequence(tokens);
        end_document();
    }

    int64_t tokens() const { return tokens_; }
    int64_t documents() const { return documents_; }

    /// Tokens, documents and hashes of the finished shard. `prefix` and `bytes` are the caller's to
    /// fill in. An unended document is an internal error.
    ShardEntry finish();

  private:
    struct Output;  ///< a buffered, hashed temporary file
    Output& open(const char* suffix);
    void write_index();

    io::FileSystem& files_;
    std::string path_;
    DType dtype_;
    std::vector<std::unique_ptr<Output>> outputs_;
    Output* bin_ = nullptr;
    Output* lengths_ = nullptr;  ///< spill: the .idx needs all lengths before all offsets
    Output* starts_ = nullptr;   ///< spill: first sequence of each next document
    Output* idx_ = nullptr;
    int64_t tokens_ = 0;
    int64_t sequences_ = 0;
    int64_t documents_ = 0;
    int64_t ended_at_ = 0;  ///< sequences when the latest document ended
};

/// Where a document begins in its shard.
struct DocumentStart {
    int64_t document;
    int64_t token;
};

/// Reads a shard with positioned reads. Opening checks the header and the file sizes against each
/// other and costs a few small reads, whatever the size; nothing but two open files is kept in
/// memory, so billions of tokens and documents cost nothing. Thread safe.
class TokenShard {
  public:
    /// `path` is PREFIX with its folder. Errors of kind data name the file and what is wrong.
    TokenShard(io::FileSystem& files, const std::string& path);
    /// The same on files that are already open.
    TokenShard(std::unique_ptr<io::ReadableFile> bin, std::unique_ptr<io::ReadableFile> idx);

    const std::string& path() const { return bin_->path(); }
    DType dtype() const { return dtype_; }
    int64_t tokens() const { return tokens_; }
    int64_t sequences() const { return sequences_; }
    int64_t documents() const { return documents_; }

    /// Tokens [offset, offset + out.size()), which must exist.
    void read_tokens(int64_t offset, std::span<int32_t> out) const;

    /// The document that holds token `begin`, then every document that begins in (begin, end), in
    /// order; of empty documents that share a start the last counts. Found by interpolation in the
    /// .idx: about three small reads.
    std::vector<DocumentStart> documents_in(int64_t begin, int64_t end) const;

    /// Reads everything: sequences must follow each other without gaps, documents be in order, and
    /// all ids lie in [0, vocab_size). Throws an error of kind data at the first fault.
    void verify(int64_t vocab_size) const;

  private:
    void read_header();
    /// Byte positions in the .idx of its three arrays.
    uint64_t lengths_at() const;
    uint64_t offsets_at() const;
    uint64_t documents_at() const;
    /// First tokens of documents [first, first + count); document `documents()` begins at
    /// `tokens()`.
    std::vector<int64_t> starts_of(int64_t first, int64_t count) const;
    int64_t document_of(int64_t token) const;
    void verify_sequences() const;
    void verify_documents() const;
    void verify_tokens(int64_t vocab_size) const;

    std::unique_ptr<io::ReadableFile> bin_;
    std::unique_ptr<io::ReadableFile> idx_;
    DType dtype_ = DType::u16;
    int64_t tokens_ = 0;
    int64_t sequences_ = 0;
    int64_t documents_ = 0;
};

/// Reads both files of a shard at the disk's speed; their hashes must be those of the manifest.
/// `on_read` gets the bytes of each piece of at most 1 MiB after it was read, and may throw to end
/// the reading.
void verify_shard_hashes(io::FileSystem& files, const std::string& folder, const ShardEntry& entry,
                         const std::function<void(uint64_t bytes)>& on_read = {});

/// Opens the shard and reads all of it; hashes, counts and ids must be those of the manifest.
void verify_shard(io::FileSystem& files, const std::string& folder, const ShardEntry& entry,
                  const DatasetManifest& manifest);

}  // namespace plinth::core::data
