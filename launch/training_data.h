// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/data/sampler.h"
#include "core/data/tokenizer.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// What a run trains on: sources with weights, their tokenizer, and how much of it was consumed.
struct TrainingData {
    std::vector<std::shared_ptr<const core::data::Source>> sources;
    std::vector<core::data::BlendSource> blend;
    std::shared_ptr<const core::data::Source> held_out;  ///< null: no evaluation
    int64_t held_out_windows = 0;                        ///< or examples
    /// Bits a nat and token cost a byte of the held-out text: bits/byte = loss * this. 0: unknown.
    double bits_per_byte_factor = 0.0;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;
    core::data::SamplerState sampler;

    /// Opens the token shards that data.sources names. Refused by name: a missing folder, a
    /// vocabulary larger than the model's, sources made with different tokenizers.
    static TrainingData open(const DataSection& data, int64_t vocab_size,
                             core::io::FileSystem& files);

    /// Refuses, with an error of kind checkpoint, a checkpoint whose weights learned another
    /// tokenizer's ids than those of this data. `where` names it. One that holds no tokenizer is
    /// taken as it is.
    void require_tokenizer_of(const checkpoints::Manifest& checkpoint,
                              const std::string& where) const;

    /// A loader of micro-batches from here on.
    std::unique_ptr<core::data::Loader> start(const DataSection& data,
                                              core::data::NextRequest requests) const;
};

/// Hashes the shards of all data sets that the section names; the ranks share them out. One that is
/// not what its manifest says is an error of kind data.
void verify_shards(const DataSection& section, core::io::FileSystem& files, int rank, int ranks);

/// Windows, or examples, [first, first + count) of a source as one micro-batch, in order, without
/// shuffling.
core::data::MicroBatch batch_in_order(const core::data::Source& source, int64_t first,
                                      int64_t count, int64_t length, bool document_mask);

}  // namespace plinth::launch
