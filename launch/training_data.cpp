// SPDX-License-Identifier: Apache-2.0
#include "launch/training_data.h"

#include <numbers>
#include <set>

#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

using core::data::Dataset;

/// A tokenizer's built-in name, or the folder it was copied to beside the manifest.
std::shared_ptr<const core::data::Tokenizer> tokenizer_of(
    const core::data::DatasetManifest& manifest, const std::string& folder,
    core::io::FileSystem& files) {
    const std::string beside = core::io::join(folder, manifest.tokenizer);
    std::shared_ptr<const core::data::Tokenizer> tokenizer =
        core::data::load_tokenizer(files, files.exists(beside) ? beside : manifest.tokenizer);
    REQUIRE(data, tokenizer->content_hash() == manifest.tokenizer_hash,
            "{}: the tokenizer {} is not the one that the manifest names: it was exchanged after "
            "the data set was made; prepare the data again",
            folder, manifest.tokenizer);
    return tokenizer;
}

void check_vocabulary(const Dataset& set, const std::string& folder, int64_t vocab_size) {
    REQUIRE(config, set.manifest().vocab_size <= vocab_size,
            "model.vocab_size: {} is smaller than the vocabulary of {} tokens that {} was made "
            "with; set "
            "model.vocab_size={}",
            vocab_size, set.manifest().vocab_size, folder, set.manifest().vocab_size);
}

void open_held_out(TrainingData& data, const std::string& folder, int64_t window,
                   core::io::FileSystem& files) {
    const auto manifest = core::data::DatasetManifest::load(files, folder);
    if (!manifest.splits.contains("heldout") || manifest.splits.at("heldout").tokens() <= window)
        return;
    const auto set = Dataset::open(files, folder, "heldout");
    data.held_out = set;
    data.held_out_windows = (set->tokens() - 1) / window;
    data.bits_per_byte_factor =
        static_cast<double>(set->tokens()) / static_cast<double>(set->bytes()) / std::numbers::ln2;
}

}  // namespace

TrainingData TrainingData::open(const DataSection& section, int64_t vocab_size,
                                core::io::FileSystem& files) {
    TrainingData data;
    REQUIRE(config, !section.sources.empty(),
            "data.sources: name at least one folder that `plinth data prepare` wrote");
    std::string tokenizer_hash;
    for (const BlendSource& source : section.sources) {
        const auto set = Dataset::open(files, source.path, "train", source.name);
        check_vocabulary(*set, source.path, vocab_size);
        if (tokenizer_hash.empty()) {
            tokenizer_hash = set->manifest().tokenizer_hash;
            data.tokenizer = tokenizer_of(set->manifest(), source.path, files);
        }
        REQUIRE(config, set->manifest().tokenizer_hash == tokenizer_hash,
                "data.sources: {} was made with another tokenizer than {}; prepare them with one",
                source.path, section.sources.front().path);
        core::data::BlendSource described = set->describe();
        described.weight = source.weight;
        data.sources.push_back(set);
        data.blend.push_back(std::move(described));
    }
    open_held_out(data, section.held_out.empty() ? section.sources.front().path : section.held_out,
                  section.sequence_length, files);
    return data;
}

void TrainingData::require_tokenizer_of(const checkpoints::Manifest& checkpoint,
                                        const std::string& where) const {
    if (checkpoint.files.empty() || !tokenizer) return;
    const auto theirs = core::data::load_tokenizer(checkpoint.files, where);
    if (theirs->content_hash() == tokenizer->content_hash()) return;
    std::vector<std::string> names;
    for (const core::data::BlendSource& source : blend)
        names.push_back(source.name);
    FAIL(checkpoint,
         "tokenizer: {} was trained with {} ({} tokens, {:.8}), but the data {} was made with {} "
         "({} tokens, {:.8}): the same ids mean other text; prepare the data with the checkpoint's "
         "tokenizer, or begin a new run.folder without this checkpoint",
         where, theirs->name(), theirs->vocab_size(), theirs->content_hash(),
         fmt::join(names, ", "), tokenizer->name(), tokenizer->vocab_size(),
         tokenizer->content_hash());
}

std::unique_ptr<core::data::Loader> TrainingData::start(const DataSection& section,
                                                        core::data::NextRequest requests) const {
    return std::make_unique<core::data::Loader>(
        sources, std::make_shared<const core::data::Sampler>(sampler),
        core::data::LoaderConfig{.threads = 1,
                                 .depth = static_cast<int>(section.prefetch),
                                 .document_mask = section.document_mask},
        std::move(requests));
}

void verify_shards(const DataSection& section, core::io::FileSystem& files, int rank, int ranks) {
    std::set<std::string> folders;
    for (const BlendSource& source : section.sources)
        folders.insert(source.path);
    if (!section.held_out.empty()) folders.insert(section.held_out);
    int64_t number = 0;
    for (const std::string& folder : folders) {
        const auto manifest = core::data::DatasetManifest::load(files, folder);
        for (const auto& [name, split] : manifest.splits)
            for (const core::data::ShardEntry& shard : split.shards)
                if (number++ % ranks == rank) core::data::verify_shard_hashes(files, folder, shard);
    }
}

core::data::MicroBatch batch_in_order(const core::data::Source& source, int64_t first,
                                      int64_t count, int64_t length, bool document_mask) {
    const int64_t units = source.describe().examples ? 1 : length;
    core::data::MicroBatch batch;
    batch.rows = count;
    batch.length = length;
    const auto size = static_cast<size_t>(count * length);
    for (auto* row : {&batch.inputs, &batch.targets, &batch.positions, &batch.document_ids})
        row->resize(size);
    for (int64_t i = 0; i < count; ++i) {
        const auto row = [&](std::vector<int32_t>& values) {
            return std::span(values).subspan(static_cast<size_t>(i * length),
                                             static_cast<size_t>(length));
        };
        const core::data::SampleRef ref{.sample = first + i, .unit = (first + i) * units};
        source.fill(
            ref, document_mask,
            {row(batch.inputs), row(batch.targets), row(batch.positions), row(batch.document_ids)});
        batch.sample_ids.push_back(first + i);
    }
    return batch;
}

}  // namespace plinth::launch
