// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/manifest.h"
#include "core/data/source.h"
#include "core/data/token_shard.h"
#include "core/io/file.h"

namespace plinth::core::data {

/// One split of a prepared folder as one long row of N tokens over all its shards. Keeps two open
/// files a shard and a prefix sum over the shards; nothing grows with tokens or documents. Thread
/// safe.
class Dataset final : public Source {
  public:
    /// Reads FOLDER/manifest.json and opens every shard; sizes that do not match the manifest are
    /// errors of kind data. `name` is the source's name in the blend; empty: the manifest's.
    static std::shared_ptr<Dataset> open(io::FileSystem& files, const std::string& folder,
                                         const std::string& split, const std::string& name = {});

    Dataset(io::FileSystem& files, const std::string& folder, DatasetManifest manifest,
            std::string split, const std::string& name = {});

    const DatasetManifest& manifest() const { return manifest_; }
    const std::string& split() const { return split_; }
    int64_t tokens() const { return starts_.back(); }
    int64_t documents() const { return manifest_.split(split_, folder_).documents(); }
    int64_t bytes() const { return manifest_.split(split_, folder_).bytes(); }

    /// Tokens from `offset` < N on, going round at N. Ids outside the vocabulary are errors of kind
    /// data that name the shard.
    void read_tokens(int64_t offset, std::span<int32_t> out) const;

    /// For each of the tokens from `offset` on, going round at N: the position since the later of
    /// its document's begin and `offset`, and the number of document begins passed. The seam begins
    /// a document.
    void read_documents(int64_t offset, std::span<int32_t> positions, std::span<int32_t> ids) const;

    BlendSource describe() const override;
    void fill(const SampleRef& ref, bool document_mask, const SampleView& view) const override;

  private:
    /// Calls body(shard, offset in it, begin in the window, count) for the parts of a window.
    template <typename Body>
    void for_each_part(int64_t offset, int64_t count, Body&& body) const;

    std::string folder_;
    DatasetManifest manifest_;
    std::string split_;
    std::string name_;
    std::vector<std::unique_ptr<TokenShard>> shards_;
    std::vector<int64_t> starts_;  ///< first token of each shard, then N
};

}  // namespace plinth::core::data
