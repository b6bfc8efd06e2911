// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/data/manifest.h"
#include "core/data/token_shard.h"
#include "core/io/file.h"

namespace plinth::test {

/// Writes a prepared data set: one list of documents for each shard, all in the split "train".
inline core::data::DatasetManifest write_dataset(
    const std::string& folder, const std::string& source, int64_t vocab_size,
    const std::vector<std::vector<std::vector<int32_t>>>& shards) {
    auto& files = core::io::posix();
    files.make_directories(folder);
    core::data::DatasetManifest manifest;
    manifest.source = source;
    manifest.tokenizer = "bytes";
    manifest.tokenizer_hash = "0";
    manifest.vocab_size = vocab_size;
    manifest.eod_id = 0;
    const DType dtype = core::data::token_dtype(vocab_size);
    manifest.dtype = std::string(name_of(dtype));
    for (const auto& documents : shards) {
        const std::string prefix =
            fmt::format("train-{:05}", manifest.splits["train"].shards.size());
        core::data::TokenShardWriter writer(files, core::io::join(folder, prefix), dtype);
        for (const auto& document : documents)
            writer.add_document(document);
        core::data::ShardEntry entry = writer.finish();
        entry.prefix = prefix;
        entry.bytes = entry.tokens;
        manifest.splits["train"].shards.push_back(entry);
    }
    manifest.save(files, folder);
    return manifest;
}

}  // namespace plinth::test
