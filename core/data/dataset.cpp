// SPDX-License-Identifier: Apache-2.0
#include "core/data/dataset.h"

#include <algorithm>
#include <numeric>

#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

std::shared_ptr<Dataset> Dataset::open(io::FileSystem& files, const std::string& folder,
                                       const std::string& split, const std::string& name) {
    return std::make_shared<Dataset>(files, folder, DatasetManifest::load(files, folder), split,
                                     name);
}

Dataset::Dataset(io::FileSystem& files, const std::string& folder, DatasetManifest manifest,
                 std::string split, const std::string& name)
    : folder_(folder),
      manifest_(std::move(manifest)),
      split_(std::move(split)),
      name_(name.empty() ? manifest_.source : name),
      starts_{0} {
    const std::string path = io::join(folder, DatasetManifest::kFileName);
    for (const ShardEntry& entry : manifest_.split(split_, path).shards) {
        auto shard = std::make_unique<TokenShard>(files, io::join(folder, entry.prefix));
        REQUIRE(data,
                shard->tokens() == entry.tokens && shard->documents() == entry.documents &&
                    name_of(shard->dtype()) == manifest_.dtype,
                "{}: {} tokens of {} in {} documents, but {} says {} of {} in {}: the file was "
                "changed; prepare the data again",
                shard->path(), shard->tokens(), name_of(shard->dtype()), shard->documents(), path,
                entry.tokens, manifest_.dtype, entry.documents);
        starts_.push_back(starts_.back() + shard->tokens());
        shards_.push_back(std::move(shard));
    }
    REQUIRE(data, tokens() > 0, "{}: split '{}' holds no tokens", path, split_);
}

template <typename Body>
void Dataset::for_each_part(int64_t offset, int64_t count, Body&& body) const {
    CHECK(offset >= 0 && offset < tokens(), "token {} of {}", offset, tokens());
    for (int64_t done = 0; done < count;) {
        const auto after = std::upper_bound(starts_.begin(), starts_.end(), offset);
        const int64_t part = std::min(count - done, *after - offset);
        const auto shard = static_cast<size_t>(after - starts_.begin()) - 1;
        body(*shards_[shard], offset - starts_[shard], done, part);
        done += part;
        offset = *after == tokens() && offset + part == tokens() ? 0 : offset + part;
    }
}

void Dataset::read_tokens(int64_t offset, std::span<int32_t> out) const {
    for_each_part(
        offset, static_cast<int64_t>(out.size()),
        [&](const TokenShard& shard, int64_t from, int64_t begin, int64_t count) {
            const auto part = out.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
            shard.read_tokens(from, part);
            // As unsigned, so that one comparison refuses negative ids too, and loops vectorise.
            const auto vocab = static_cast<uint32_t>(manifest_.vocab_size);
            uint32_t largest = 0;
            for (const int32_t token : part)
                largest = std::max(largest, static_cast<uint32_t>(token));
            REQUIRE(data, largest < vocab,
                    "{}: tokens {} to {} hold the id {}, outside the vocabulary of {}: the file is "
                    "damaged or of another tokenizer",
                    shard.path(), from, from + count - 1, static_cast<int32_t>(largest), vocab);
        });
}

void Dataset::read_documents(int64_t offset, std::span<int32_t> positions,
                             std::span<int32_t> ids) const {
    CHECK(positions.size() == ids.size(), "{} positions, {} ids", positions.size(), ids.size());
    int32_t id = -1, position = 0;
    for_each_part(offset, static_cast<int64_t>(positions.size()),
                  [&](const TokenShard& shard, int64_t from, int64_t begin, int64_t count) {
                      const auto documents = shard.documents_in(from, from + count);
                      auto next = documents.begin();
                      for (int64_t t = 0; t < count; ++t) {
                          // The first document of a part began here, in an earlier window, or (a
                          // new shard) at the part's first token: all count as a begin.
                          if (next != documents.end() && next->token <= from + t) {
                              ++next;
                              ++id;
                              position = 0;
                          }
                          const auto at = static_cast<size_t>(begin + t);
                          ids[at] = id;
                          positions[at] = position++;
                      }
                  });
}

BlendSource Dataset::describe() const {
    // The hashes of all shards: any change of content, order or number changes it.
    io::Xxh3 hash;
    for (const ShardEntry& entry : manifest_.split(split_, folder_).shards)
        for (const std::string& text : {entry.bin_xxh3, entry.idx_xxh3})
            hash.update(std::as_bytes(std::span(text)));
    return {.name = name_, .units = tokens(), .fingerprint = io::to_hex(hash.digest128())};
}

void Dataset::fill(const SampleRef& ref, bool document_mask, const SampleView& view) const {
    // One token more than a window: the last target.
    const size_t length = view.inputs.size();
    std::vector<int32_t> tokens(length + 1);
    read_tokens(ref.unit, tokens);
    std::copy_n(tokens.begin(), length, view.inputs.begin());
    std::copy_n(tokens.begin() + 1, length, view.targets.begin());
    if (document_mask) {
        read_documents(ref.unit, view.positions, view.document_ids);
    } else {
        std::iota(view.positions.begin(), view.positions.end(), 0);
        std::fill(view.document_ids.begin(), view.document_ids.end(), 0);
    }
}

}  // namespace plinth::core::data
