// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/data/sampler.h"
#include "core/data/tokenizer.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// Windows, or examples, 0 to `windows` of a source that is never trained on.
struct HeldOutSet {
    std::shared_ptr<const core::data::Source> source;
    int64_t windows = 0;
};

/// One of them.
struct WindowRef {
    const core::data::Source* source = nullptr;
    int64_t number = 0;
};

/// What a run trains on: sources with weights, their tokenizer, and how much of it was consumed.
struct TrainingData {
    std::vector<std::shared_ptr<const core::data::Source>> sources;
    std::vector<core::data::BlendSource> blend;
    std::vector<HeldOutSet> held_out;  ///< empty: no evaluation
    /// Bits a nat and token cost a byte of the held-out text: bits/byte = loss * this. 0: unknown.
    double bits_per_byte_factor = 0.0;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;
    core::data::SamplerState sampler;

    /// Opens the token shards that data.sources names, and the held-out splits of data.held_out or,
    /// without it, of all sources that have one. Refused by name: a missing folder, a vocabulary
    /// larger than the model's, sets made with different tokenizers or
    /// another than data.tokenizer, a held-out set without a
    /// held-out split, evaluation without any.
    static TrainingData open(const RunConfig& config, core::io::FileSystem& files);

    /// Windows of all held-out sets together.
    int64_t held_out_samples() const;
    /// What an evaluation over `most` windows reads: the first ones of each held-out set, of each a
    /// share as large as its part of all windows.
    std::vector<WindowRef> held_out_windows(int64_t most) const;

    /// Refuses, with an error of kind checkpoint, a checkpoint whose weights learned another
    /// tokenizer's ids than those of this data. `where` names it. One that holds no tokenizer is
    /// taken as it is.
    void require_tokenizer_of(const checkpoints::Manifest& checkpoint,
                              const std::string& where) const;

    /// A loader of micro-batches from here on.
    std::unique_ptr<core::data::Loader> start(const RunConfig& config,
                                              core::data::NextRequest requests) const;
};

/// data.prefetch, or as many micro-batches as fit into data.memory, at least one.
int64_t micro_batches_ahead(const RunConfig& config);

/// Folders of the sources and of the held-out set, each once.
std::set<std::string> data_folders(const DataSection& section);

/// Windows, or examples, as one micro-batch; the padding that examples share is cut.
core::data::MicroBatch batch_of(std::span<const WindowRef> windows, int64_t length,
                                bool document_mask);

/// Windows, or examples, [first, first + count) of a source as one micro-batch, in order, without
/// shuffling.
core::data::MicroBatch batch_in_order(const core::data::Source& source, int64_t first,
                                      int64_t count, int64_t length, bool document_mask);

}  // namespace plinth::launch
