// SPDX-License-Identifier: Apache-2.0
#include "launch/inspect.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/reader.h"
#include "checkpoints/verify.h"
#include "core/data/byte_entropy.h"
#include "core/data/dataset.h"
#include "core/io/print.h"
#include "launch/config/text.h"
#include "launch/metrics/loss_curve.h"
#include "launch/operands.h"

namespace plinth::launch {

namespace {

/// A bar of up to 40 columns.
std::string bar(int64_t count, int64_t most) {
    return std::string(static_cast<size_t>((40 * count + most - 1) / most), '#');
}

std::string histogram_text(const std::vector<int64_t>& buckets) {
    std::string text;
    const int64_t most = *std::max_element(buckets.begin(), buckets.end());
    for (size_t k = 0; k < buckets.size(); ++k) {
        if (buckets[k] == 0) continue;
        const int64_t low = int64_t{1} << k;
        text += fmt::format("    {:>10} to {:<10} {:>10}  {}\n", low, 2 * low - 1, buckets[k],
                            bar(buckets[k], most));
    }
    return text;
}

std::string split_text(const std::string& name, const core::data::SplitSummary& split,
                       const core::data::ByteBigrams& bigrams) {
    std::string text = fmt::format("\nsplit {}\n", name);
    text += fmt::format("  documents            {}\n", split.documents);
    text += fmt::format("  tokens               {}\n", split.tokens);
    text += fmt::format("  bytes of text        {}\n", split.bytes);
    text += fmt::format("  bytes per token      {:.4f}\n", split.bytes_per_token());
    text +=
        fmt::format("  byte-bigram entropy  {:.4f} bits per byte\n", bigrams.conditional_entropy());
    text += fmt::format("  tokens a document    {} to {}\n", split.shortest, split.longest);
    if (!split.length_histogram.empty()) text += histogram_text(split.length_histogram);
    for (const std::string& document : split.first_documents)
        text += fmt::format("  begins {}\n", quote_yaml(document));
    return text;
}

/// Columns and rows of the terminal plot.
constexpr int plot_columns = 100;
constexpr int plot_rows = 24;

}  // namespace

std::string data_text(core::io::FileSystem& files, const std::string& folder,
                      const core::data::DatasetSummary& summary) {
    const core::data::DatasetManifest& manifest = summary.manifest;
    const auto tokenizer =
        core::data::load_tokenizer(files, core::io::join(folder, manifest.tokenizer));
    std::string text = fmt::format("{}\n", folder);
    text += fmt::format("  name                 {}\n", manifest.source);
    text += fmt::format("  tokenizer            {}, {} tokens, hash {}\n", tokenizer->name(),
                        manifest.vocab_size, manifest.tokenizer_hash);
    text += fmt::format("  stored as            {}\n", manifest.dtype);
    for (const auto& [reason, count] : manifest.dropped)
        text += fmt::format("  dropped              {} documents: {}\n", count, reason);
    text += "  hashes, counts, ids  every byte read and right\n";
    for (const auto& [name, split] : summary.splits) {
        const auto dataset = core::data::Dataset::open(files, folder, name);
        text += split_text(name, split, core::data::count_byte_bigrams(*dataset, *tokenizer));
    }
    return text;
}

int inspect_data(const std::vector<std::string>& words) {
    const Operands operands(words, {});
    core::io::FileSystem& files = core::io::posix();
    const std::string& folder = operands.paths().front();
    core::io::print_result(data_text(files, folder, core::data::inspect_dataset(files, folder)));
    return 0;
}

std::vector<std::string> checkpoints_at(core::io::FileSystem& files, const std::string& path) {
    if (files.exists(core::io::join(path, "COMMIT"))) return {path};
    std::vector<std::string> found;
    for (const std::string& root : {path, core::io::join(path, "checkpoints")})
        for (const checkpoints::Candidate& candidate : checkpoints::list_checkpoints(files, root))
            if (candidate.committed) found.push_back(candidate.folder);
    REQUIRE(checkpoint, !found.empty(),
            "{}: no committed checkpoint here: name a checkpoint folder, or the folder of a run "
            "that saved one",
            path);
    return found;
}

int inspect_checkpoint(const std::vector<std::string>& words) {
    const Operands operands(words, {});
    core::io::FileSystem& files = core::io::posix();
    const std::string newest = checkpoints_at(files, operands.paths().front()).front();
    core::io::print_result(checkpoints::inspect(files, newest));
    return 0;
}

int verify_checkpoint(const std::vector<std::string>& words) {
    const Operands operands(words, {});
    core::io::FileSystem& files = core::io::posix();
    bool sound = true;
    for (const std::string& folder : checkpoints_at(files, operands.paths().front())) {
        const std::vector<std::string> problems = checkpoints::verify(files, folder);
        for (const std::string& problem : problems)
            core::io::print_result(problem + "\n");
        core::io::print_result(
            fmt::format("{}: {}\n", folder,
                        problems.empty() ? "sound, every byte checked"
                                         : fmt::format("damaged, {} problems", problems.size())));
        sound = sound && problems.empty();
    }
    return sound ? 0 : exit_code(ErrorKind::checkpoint);
}

int plot_metrics(const std::vector<std::string>& words) {
    const Operands operands(
        words, {.most = SIZE_MAX, .settings = {{"key", "loss"}, {"svg", ""}, {"title", ""}}});
    core::io::FileSystem& files = core::io::posix();
    const std::string& key = operands.setting("key");
    std::vector<Curve> curves;
    for (const std::string& path : operands.paths()) {
        const std::string inside = core::io::join(path, "metrics.jsonl");  // of a run's folder
        curves.push_back(read_curve(files, files.exists(inside) ? inside : path, key));
    }
    PlotOptions options{.title = operands.setting("title"), .y_label = key};
    const std::string& svg = operands.setting("svg");
    if (!svg.empty()) {
        core::io::write_atomically(files, svg, plot_svg(curves, options));
        core::io::print_best_effort(stdout, fmt::format("wrote {}\n", svg));
        return 0;
    }
    options.width = plot_columns;
    options.height = plot_rows;
    core::io::print_result(plot_terminal(curves, options));
    return 0;
}

}  // namespace plinth::launch
