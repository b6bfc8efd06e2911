// SPDX-License-Identifier: Apache-2.0
#include "launch/training_data.h"

#include <algorithm>
#include <numbers>

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

/// The data must have been made with the tokenizer that the configuration names, if it names one.
void check_tokenizer(const DataSection& section, const core::data::Tokenizer& made_with,
                     core::io::FileSystem& files) {
    if (section.tokenizer.empty()) return;
    const auto wanted = core::data::load_tokenizer(files, section.tokenizer);
    REQUIRE(config, wanted->content_hash() == made_with.content_hash(),
            "data.tokenizer={}: {} was made with another tokenizer ({}, {} tokens): prepare it "
            "with prepare.tokenizer={}, or name the right one",
            section.tokenizer, section.sources.front().path, made_with.name(),
            made_with.vocab_size(), section.tokenizer);
}

/// The held-out split of a folder, if it holds more than one window: a window needs a token more.
std::shared_ptr<const Dataset> open_held_out(const std::string& folder, int64_t window,
                                             core::io::FileSystem& files) {
    const auto manifest = core::data::DatasetManifest::load(files, folder);
    if (!manifest.splits.contains("heldout") || manifest.splits.at("heldout").tokens() <= window)
        return nullptr;
    return Dataset::open(files, folder, "heldout");
}

/// Fills in the held-out sets and their bits per byte.
void open_held_out(TrainingData& data, const RunConfig& config, core::io::FileSystem& files) {
    const DataSection& section = config.data;
    std::vector<std::string> folders;
    if (section.held_out.empty())
        for (const BlendSource& source : section.sources)
            folders.push_back(source.path);
    else
        folders.push_back(section.held_out);
    int64_t tokens = 0, bytes = 0;
    for (const std::string& folder : folders) {
        const auto set = open_held_out(folder, section.sequence_length, files);
        REQUIRE(config, set || section.held_out.empty(),
                "data.held_out={}: this data set has no held-out split of more than {} tokens (one "
                "sample); prepare it with prepare.held_out above 0, or name another one",
                folder, section.sequence_length);
        if (!set) continue;
        REQUIRE(
            config, set->manifest().tokenizer_hash == data.tokenizer->content_hash(),
            "data.held_out={}: was made with another tokenizer than {}; prepare it with that one",
            folder, section.sources.front().path);
        data.held_out.push_back({set, (set->tokens() - 1) / section.sequence_length});
        tokens += set->tokens();
        bytes += set->bytes();
    }
    if (bytes > 0)
        data.bits_per_byte_factor =
            static_cast<double>(tokens) / static_cast<double>(bytes) / std::numbers::ln2;
    REQUIRE(config, config.train.eval_every == 0 || !data.held_out.empty(),
            "train.eval_every={}: there is nothing to evaluate on: no data set has a held-out "
            "split of more than {} tokens (one sample); prepare one with prepare.held_out above 0, "
            "name another with data.held_out=FOLDER, or set train.eval_every=0",
            config.train.eval_every, section.sequence_length);
}

}  // namespace

TrainingData TrainingData::open(const RunConfig& config, core::io::FileSystem& files) {
    const DataSection& section = config.data;
    TrainingData data;
    REQUIRE(config, !section.sources.empty(),
            "data.sources: name at least one folder that `plinth data prepare` wrote");
    std::string tokenizer_hash;
    for (const BlendSource& source : section.sources) {
        const auto set = Dataset::open(files, source.path, "train", source.name);
        check_vocabulary(*set, source.path, config.model.vocab_size);
        if (tokenizer_hash.empty()) {
            tokenizer_hash = set->manifest().tokenizer_hash;
            data.tokenizer = tokenizer_of(set->manifest(), source.path, files);
            check_tokenizer(section, *data.tokenizer, files);
        }
        REQUIRE(config, set->manifest().tokenizer_hash == tokenizer_hash,
                "data.sources: {} was made with another tokenizer than {}; prepare them with one",
                source.path, section.sources.front().path);
        core::data::BlendSource described = set->describe();
        described.weight = source.weight;
        data.sources.push_back(set);
        data.blend.push_back(std::move(described));
    }
    open_held_out(data, config, files);
    return data;
}

int64_t TrainingData::held_out_samples() const {
    int64_t total = 0;
    for (const HeldOutSet& set : held_out)
        total += set.windows;
    return total;
}

std::vector<WindowRef> TrainingData::held_out_windows(int64_t most) const {
    const int64_t total = held_out_samples();
    const int64_t wanted = std::min(most, total);
    std::vector<WindowRef> windows;
    int64_t passed = 0;
    for (const HeldOutSet& set : held_out) {
        // Rounding the running total, not the share, gives `wanted` windows in the end.
        const int64_t before = wanted * passed / total;
        passed += set.windows;
        const int64_t share = wanted * passed / total - before;
        for (int64_t i = 0; i < share; ++i)
            windows.push_back({set.source.get(), i});
    }
    return windows;
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

std::unique_ptr<core::data::Loader> TrainingData::start(const RunConfig& config,
                                                        core::data::NextRequest requests) const {
    return std::make_unique<core::data::Loader>(
        sources, std::make_shared<const core::data::Sampler>(sampler),
        core::data::LoaderConfig{.threads = 1,
                                 .depth = static_cast<int>(micro_batches_ahead(config)),
                                 .document_mask = config.data.document_mask},
        std::move(requests));
}

int64_t micro_batches_ahead(const RunConfig& config) {
    constexpr int64_t token_bytes = 4 * sizeof(int32_t);  // input, target, position, document
    const int64_t rows = config.data.memory / token_bytes / config.data.sequence_length;
    return std::clamp<int64_t>(rows / config.train.micro_batch, 1, config.data.prefetch);
}

std::set<std::string> data_folders(const DataSection& section) {
    std::set<std::string> folders;
    for (const BlendSource& source : section.sources)
        folders.insert(source.path);
    if (!section.held_out.empty()) folders.insert(section.held_out);
    return folders;
}

core::data::MicroBatch batch_of(std::span<const WindowRef> windows, int64_t length,
                                bool document_mask) {
    core::data::MicroBatch batch;
    batch.rows = static_cast<int64_t>(windows.size());
    batch.length = length;
    for (auto* row : {&batch.inputs, &batch.targets, &batch.positions, &batch.document_ids})
        row->resize(windows.size() * static_cast<size_t>(length));
    bool only_examples = true;
    for (size_t i = 0; i < windows.size(); ++i) {
        const auto row = [&](std::vector<int32_t>& values) {
            return std::span(values).subspan(i * static_cast<size_t>(length),
                                             static_cast<size_t>(length));
        };
        const auto& [source, number] = windows[i];
        const bool is_example = source->describe().examples;
        only_examples &= is_example;
        const int64_t units = is_example ? 1 : length;
        source->fill(
            {.sample = number, .unit = number * units}, document_mask,
            {row(batch.inputs), row(batch.targets), row(batch.positions), row(batch.document_ids)});
        batch.sample_ids.push_back(number);
    }
    if (only_examples) core::data::cut_padding(batch);
    return batch;
}

core::data::MicroBatch batch_in_order(const core::data::Source& source, int64_t first,
                                      int64_t count, int64_t length, bool document_mask) {
    std::vector<WindowRef> windows;
    for (int64_t i = 0; i < count; ++i)
        windows.push_back({&source, first + i});
    return batch_of(windows, length, document_mask);
}

}  // namespace plinth::launch
