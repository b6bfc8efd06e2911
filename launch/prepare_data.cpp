// SPDX-License-Identifier: Apache-2.0
#include "launch/prepare_data.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "core/data/cleaning.h"
#include "core/data/prepare.h"
#include "core/io/print.h"
#include "launch/pipeline_config.h"

namespace plinth::launch {

namespace {

core::data::PrepareConfig pipeline_config(const PrepareSection& section) {
    core::data::PrepareConfig config;
    config.source = source_config("prepare", section);
    config.cleaning.invalid_utf8 = invalid_utf8(section.invalid_utf8);
    config.cleaning.normal_form = normal_form(section.normalize);
    config.cleaning.min_characters = section.min_characters;
    config.tokenizer = section.tokenizer;
    config.output = section.output;
    config.name = section.name;
    config.held_out = section.held_out;
    config.deduplicate = section.deduplicate;
    config.shard_tokens = section.shard_tokens;
    config.seed = static_cast<uint64_t>(section.seed);
    config.memory = section.memory;
    config.threads = static_cast<int>(section.threads);
    return config;
}

/// The data set is the result: a full disk behind standard output does not end its making.
void print(const std::string& text) {
    core::io::print_best_effort(stdout, text);
}

/// One line in place on a terminal, a line every few seconds elsewhere.
class ProgressPrinter {
  public:
    void operator()(const core::data::PrepareProgress& progress) {
        if (!terminal_ && progress.seconds < next_) return;
        next_ = progress.seconds + 5.0;
        print(fmt::format(
            "{}{}  {:.1f}/{:.1f} MB  documents {}  tokens {}  {:.1f} MB/s  ETA {:.0f} s{}",
            terminal_ ? "\r" : "", progress.phase, static_cast<double>(progress.bytes_done) * 1e-6,
            static_cast<double>(progress.bytes_total) * 1e-6, progress.documents, progress.tokens,
            progress.bytes_per_second() * 1e-6, progress.seconds_left(), terminal_ ? "   " : "\n"));
    }
    void end() const {
        if (terminal_) print("\n");
    }

  private:
    bool terminal_ = isatty(STDOUT_FILENO) == 1;
    double next_ = 0.0;
};

}  // namespace

int prepare_data(const PrepareConfig& config) {
    ProgressPrinter printer;
    const auto report = core::data::prepare(
        pipeline_config(config.prepare), core::io::posix(),
        [&](const core::data::PrepareProgress& progress) { printer(progress); },
        [](const std::string& line) { core::io::print_best_effort(stderr, line + "\n"); });
    printer.end();
    print(fmt::format("read {} documents, {:.1f} MB, in {:.1f} s\n", report.documents_read,
                      static_cast<double>(report.input_bytes) * 1e-6, report.seconds));
    for (const auto& [reason, count] : report.manifest.dropped)
        print(fmt::format("dropped {} {}: {}\n", count,
                          reason == core::data::dropped::binary ? "files" : "documents", reason));
    for (const auto& [name, split] : report.manifest.splits)
        print(fmt::format("{}: {} documents, {} tokens, {} bytes of text\n", name,
                          split.documents(), split.tokens(), split.bytes()));
    for (const std::string& line : {report.bad_lines, report.skipped, report.binary})
        if (!line.empty()) core::io::print_best_effort(stderr, fmt::format("warning: {}\n", line));
    print(fmt::format("wrote {}\n", config.prepare.output));
    return 0;
}

}  // namespace plinth::launch
