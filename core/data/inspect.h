// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/data/manifest.h"
#include "core/io/file.h"

namespace plinth::core::data {

struct InspectConfig {
    bool verify = true;     ///< read every byte: hashes, counts, ids
    int64_t documents = 3;  ///< first documents of each split to decode
    int64_t tokens = 64;    ///< most tokens shown of each
};

struct SplitSummary {
    int64_t documents = 0;
    int64_t tokens = 0;
    int64_t bytes = 0;                  ///< cleaned UTF-8
    int64_t shortest = 0, longest = 0;  ///< document lengths in tokens, end tokens included
    /// Bucket k counts documents of 2^k to 2^(k+1) - 1 tokens.
    std::vector<int64_t> length_histogram;
    std::vector<std::string> first_documents;  ///< text, always whole characters

    double bytes_per_token() const { return tokens > 0 ? double(bytes) / double(tokens) : 0; }
};

struct DatasetSummary {
    DatasetManifest manifest;
    std::map<std::string, SplitSummary> splits;
};

/// What a prepared folder holds. Damage is an error of kind data that names file and fault.
DatasetSummary inspect_dataset(io::FileSystem& files, const std::string& folder,
                               const InspectConfig& config = {});

}  // namespace plinth::core::data
