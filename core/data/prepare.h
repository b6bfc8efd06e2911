// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/data/cleaning.h"
#include "core/data/manifest.h"
#include "core/data/text_source.h"
#include "core/io/file.h"

namespace plinth::core::data {

/// Raw text to a data set of token shards.
struct PrepareConfig {
    TextSourceConfig source;
    CleaningConfig cleaning;
    DocumentFilters filters;         ///< after cleaning, in this order
    std::string tokenizer = "byte";  ///< as `load_tokenizer` takes it
    std::string output;              ///< folder of the data set; must not exist or be empty
    std::string name;                ///< permanent name in blends; empty: the last part of output
    double held_out = 0.01;          ///< share of documents in the split "heldout"
    bool deduplicate = true;         ///< of exactly equal cleaned documents keep the first
    int64_t shard_tokens = 250'000'000;   ///< most tokens in a shard, unless one document has more
    uint64_t seed = 1234;                 ///< keys the shuffle and the held-out choice
    int64_t memory = int64_t{512} << 20;  ///< bytes; what does not fit is spilled beside output
    int threads = 0;                      ///< 0: one per core

    /// Errors are of kind config.
    void validate() const;
};

/// What a progress line needs. All counts grow from 0 in each phase.
struct PrepareProgress {
    const char* phase;  ///< "reading" (clean and tokenise), then "writing" (shuffle to shards)
    uint64_t bytes_done;
    uint64_t bytes_total;
    int64_t documents;
    int64_t tokens;
    double seconds;
    double bytes_per_second() const { return seconds > 0 ? double(bytes_done) / seconds : 0; }
    double seconds_left() const {
        return bytes_done > 0 ? seconds * double(bytes_total - bytes_done) / double(bytes_done) : 0;
    }
};

struct PrepareReport {
    DatasetManifest manifest;
    int64_t documents_read = 0;  ///< bad lines included
    int64_t input_bytes = 0;     ///< on disk
    std::string bad_lines;       ///< one line about JSON lines that were skipped, or empty
    std::string skipped;         ///< one line about names that led to no file, or empty
    std::string binary;          ///< one line about files that are no text, or empty
    int64_t spilled_bytes = 0;
    int64_t peak_spill_memory = 0;
    double seconds = 0;
};

/// Reads, cleans, tokenises, drops exact duplicates, shuffles, splits and writes. The order of the
/// documents and the split are functions of their cleaned text and the seed, so the shards are the
/// same, byte for byte, for any memory and any number of threads. Everything is made in
/// OUTPUT.partial/data, the manifest last, which then becomes OUTPUT in one rename: an interruption
/// leaves no OUTPUT, and the next run begins by removing what it left. OUTPUT.partial is locked
/// meanwhile: a second preparation is refused (kind io), or waits for a lock that may be left over
/// and says so. Memory: `config.memory`, and a few times the longest document.
PrepareReport prepare(const PrepareConfig& config, io::FileSystem& files,
                      const std::function<void(const PrepareProgress&)>& progress = {},
                      const std::function<void(const std::string&)>& say = {});

}  // namespace plinth::core::data
