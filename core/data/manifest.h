// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/io/file.h"
#include "core/io/json.h"

namespace plinth::core::data {

/// One token shard: PREFIX.bin and PREFIX.idx.
struct ShardEntry {
    std::string prefix;  ///< relative to the manifest's folder, such as "train-00000"
    int64_t tokens = 0;  ///< end-of-document tokens included
    int64_t documents = 0;
    int64_t bytes = 0;     ///< raw UTF-8 bytes of the documents, after cleaning
    std::string bin_xxh3;  ///< XXH3-64 of the whole file, 16 hexadecimal digits
    std::string idx_xxh3;
    bool operator==(const ShardEntry&) const = default;
};

/// The shards of one split, in reading order.
struct SplitEntry {
    std::vector<ShardEntry> shards;
    int64_t tokens() const;
    int64_t documents() const;
    int64_t bytes() const;  ///< raw UTF-8 bytes: what bits per byte divides by
    bool operator==(const SplitEntry&) const = default;
};

/// `manifest.json`, written last by `data prepare`: a folder without it is no data set.
struct DatasetManifest {
    static constexpr int64_t kFormat = 1;
    static constexpr const char* kFileName = "manifest.json";

    std::string source;          ///< the name that blends, random keys and checkpoints use
    std::string tokenizer;       ///< file name beside the manifest, or a built-in name
    std::string tokenizer_hash;  ///< XXH3-128 of the tokenizer's definition, hexadecimal
    int64_t vocab_size = 0;
    int64_t eod_id = -1;                       ///< appended to every document; -1: none
    std::string dtype;                         ///< "u16" or "i32", as in `name_of(DType)`
    std::map<std::string, int64_t> dropped;    ///< reason -> documents left out
    std::map<std::string, SplitEntry> splits;  ///< "train", "heldout"

    /// The split, which must exist. `where` names the manifest in the error.
    const SplitEntry& split(const std::string& name, const std::string& where) const;

    /// Totals are written for people and for other programs, and checked when read.
    io::Json to_json() const;
    /// Throws an error of kind data that names the file, the line and the key.
    static DatasetManifest from_json(const io::Json& json, const std::string& where);

    /// FOLDER/manifest.json, read or written atomically. A folder without one is refused with the
    /// hint that a preparation was never run or not finished.
    static DatasetManifest load(io::FileSystem& files, const std::string& folder);
    void save(io::FileSystem& files, const std::string& folder) const;

    bool operator==(const DatasetManifest&) const = default;
};

}  // namespace plinth::core::data
