// SPDX-License-Identifier: Apache-2.0
#include "core/data/inspect.h"

#include <algorithm>
#include <bit>

#include "core/data/token_shard.h"
#include "core/data/tokenizer.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

/// Document starts are looked up this many tokens at a time.
constexpr int64_t window = int64_t{1} << 20;

void add_length(SplitSummary& summary, int64_t length) {
    if (length <= 0) return;
    const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(length)) - 1);
    if (bucket >= summary.length_histogram.size()) summary.length_histogram.resize(bucket + 1);
    ++summary.length_histogram[bucket];
    summary.shortest = summary.shortest == 0 ? length : std::min(summary.shortest, length);
    summary.longest = std::max(summary.longest, length);
}

/// The first tokens of a document as text.
std::string show(const TokenShard& shard, const Tokenizer& tokenizer, int64_t begin, int64_t end) {
    std::vector<int32_t> tokens(static_cast<size_t>(end - begin));
    shard.read_tokens(begin, tokens);
    StreamDecoder decoder(tokenizer);
    std::string text;
    for (const int32_t token : tokens) {
        if (token != tokenizer.end_of_document()) text += decoder.push(token);
    }
    return text;  // a character that the cut leaves unfinished is left out
}

void inspect_shard(const TokenShard& shard, const Tokenizer& tokenizer, const InspectConfig& config,
                   SplitSummary& summary) {
    const auto take = [&](int64_t begin, int64_t end) {
        add_length(summary, end - begin);
        if (static_cast<int64_t>(summary.first_documents.size()) < config.documents) {
            summary.first_documents.push_back(
                show(shard, tokenizer, begin, std::min(end, begin + config.tokens)));
        }
    };
    DocumentStart open{-1, 0};
    for (int64_t at = 0; at < shard.tokens(); at += window) {
        for (const DocumentStart& start :
             shard.documents_in(at, std::min(at + window, shard.tokens()))) {
            if (start.document == open.document) continue;
            if (open.document >= 0) take(open.token, start.token);
            open = start;
        }
    }
    if (open.document >= 0) take(open.token, shard.tokens());
}

}  // namespace

DatasetSummary inspect_dataset(io::FileSystem& files, const std::string& folder,
                               const InspectConfig& config) {
    DatasetSummary summary{DatasetManifest::load(files, folder), {}};
    const auto tokenizer = load_tokenizer(files, io::join(folder, summary.manifest.tokenizer));
    REQUIRE(data, tokenizer->content_hash() == summary.manifest.tokenizer_hash,
            "{}: the tokenizer is not the one that made the tokens (hash {}, manifest {})",
            io::join(folder, summary.manifest.tokenizer), tokenizer->content_hash(),
            summary.manifest.tokenizer_hash);
    for (const auto& [name, split] : summary.manifest.splits) {
        SplitSummary& part = summary.splits[name];
        part.documents = split.documents();
        part.tokens = split.tokens();
        part.bytes = split.bytes();
        for (const ShardEntry& entry : split.shards) {
            if (config.verify) verify_shard(files, folder, entry, summary.manifest);
            inspect_shard(TokenShard(files, io::join(folder, entry.prefix)), *tokenizer, config,
                          part);
        }
    }
    return summary;
}

}  // namespace plinth::core::data
