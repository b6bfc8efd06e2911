// SPDX-License-Identifier: Apache-2.0
#include "launch/tokenizer_stages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "core/data/bpe_trainer.h"
#include "core/data/byte_level_bpe.h"
#include "core/data/cleaning.h"
#include "core/data/text_source.h"
#include "core/data/tokenizer.h"
#include "core/io/print.h"
#include "kernels/runtime/error.h"
#include "launch/operands.h"
#include "launch/pipeline_config.h"

namespace plinth::launch {

namespace {

using core::data::RawDocument;

void warn(const std::string& line) {
    core::io::print_best_effort(stderr, fmt::format("warning: {}\n", line));
}

/// Calls take(text) for every document that is well formed.
template <typename Take>
void for_each_text(const core::data::TextSourceConfig& config, Take&& take) {
    core::data::TextSource source(core::io::posix(), config);
    core::data::BadLines bad_lines(config.max_bad_lines, config.keys.max_bad_lines);
    RawDocument document;
    std::string problem;
    int64_t documents = 0;
    while (source.next(document)) {
        ++documents;
        if (auto text = core::data::take_text(document, config.field, problem))
            take(std::move(*text));
        else
            bad_lines.add(document, problem);
    }
    bad_lines.require_minority(documents, config.keys.field);
    for (const std::string& line : {bad_lines.text(), source.skipped_text(), source.binary_text()})
        if (!line.empty()) warn(line);
}

std::string read_standard_input() {
    std::string text(std::istreambuf_iterator<char>(std::cin), {});
    REQUIRE(io, !std::cin.bad(), "standard input: cannot be read");
    return text;
}

/// Prints or counts the ids of one document after another.
class IdPrinter {
  public:
    IdPrinter(const core::data::Tokenizer& tokenizer, bool print_ids)
        : encoder_(tokenizer.make_encoder()), print_ids_(print_ids) {}

    void add(std::string_view text) {
        ids_.clear();
        encoder_->encode(text, ids_);
        ++documents_;
        bytes_ += text.size();
        tokens_ += ids_.size();
        if (print_ids_) core::io::print_result(fmt::format("{}\n", fmt::join(ids_, " ")));
    }
    void finish() const {
        if (print_ids_) return;
        core::io::print_result(
            fmt::format("documents {}\nbytes {}\ntokens {}\n", documents_, bytes_, tokens_));
        if (tokens_ > 0)
            core::io::print_result(
                fmt::format("bytes per token {:.4f}\n",
                            static_cast<double>(bytes_) / static_cast<double>(tokens_)));
    }

  private:
    std::unique_ptr<core::data::Encoder> encoder_;
    bool print_ids_;
    std::vector<int32_t> ids_;
    size_t documents_ = 0, bytes_ = 0, tokens_ = 0;
};

void report_training(const core::data::BpeTrainerReport& report, const std::string& output) {
    core::io::print_best_effort(stdout, fmt::format("read {:.1f} MB: {} words, {} distinct\n",
                                                    static_cast<double>(report.bytes) * 1e-6,
                                                    report.words, report.distinct_words));
    if (report.cuts > 0)
        warn(
            fmt::format("the table of words outgrew tokenizer.memory {} times: {} occurrences of "
                        "rare words were dropped, at most {} of one word",
                        report.cuts, report.dropped_occurrences, report.most_lost_per_word));
    core::io::print_best_effort(stdout,
                                fmt::format("wrote {}: {} merges\n", output, report.merges));
}

}  // namespace

int train_tokenizer(const TokenizerConfig& config) {
    const TokenizerSection& section = config.tokenizer;
    core::io::FileSystem& files = core::io::posix();
    REQUIRE(config, !files.exists(section.output) || files.list(section.output).empty(),
            "tokenizer.output: {} is not empty; choose another folder", section.output);
    const core::data::Cleaner cleaner({.invalid_utf8 = invalid_utf8(section.invalid_utf8),
                                       .normal_form = normal_form(section.normalize)});
    core::data::BpeTrainer trainer({.vocab_size = section.vocab_size,
                                    .min_frequency = section.min_frequency,
                                    .special_tokens = {section.end_token},
                                    .memory = section.memory});
    for_each_text(source_config("tokenizer", section), [&](std::string text) {
        if (!cleaner.clean(text)) trainer.add(text);
    });
    const core::data::ByteLevelBpe tokenizer(trainer.train());
    core::data::save_tokenizer(files, tokenizer, section.output);
    report_training(trainer.report(), section.output);
    return 0;
}

int encode_text(const std::vector<std::string>& words) {
    const Operands operands(words,
                            {.most = SIZE_MAX, .settings = {{"print", "ids"}, {"field", "text"}}});
    const std::string& print = operands.setting("print");
    REQUIRE(config, print == "ids" || print == "counts", "print={}: choose ids or counts", print);
    core::io::FileSystem& files = core::io::posix();
    const auto tokenizer = core::data::load_tokenizer(files, operands.paths().front());
    const std::vector<std::string> inputs(operands.paths().begin() + 1, operands.paths().end());
    IdPrinter printer(*tokenizer, print == "ids");
    if (inputs.empty()) {
        printer.add(read_standard_input());
    } else {
        for_each_text({.inputs = inputs,
                       .field = operands.setting("field"),
                       .keys = {.inputs = "tokenizer encode", .field = "field"}},
                      [&](const std::string& text) { printer.add(text); });
    }
    printer.finish();
    return 0;
}

}  // namespace plinth::launch
