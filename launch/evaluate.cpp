// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/io/print.h"
#include "kernels/runtime/trace.h"
#include "launch/build.h"
#include "launch/evaluate_classifier.h"
#include "launch/forward_passes.h"
#include "launch/sliding_windows.h"
#include "parallel/data_parallel/step_scalars.h"

namespace plinth::launch {

namespace {

using core::models::TransformerConfig;

/// Windows [first, first + count) as a micro-batch; targets that other windows score are ignored.
core::data::MicroBatch load_windows(const TokenRow& row, const SlidingWindows& windows,
                                    int64_t first, int64_t count, bool document_mask) {
    core::data::MicroBatch batch;
    batch.rows = count;
    batch.length = windows.length();
    const auto length = static_cast<size_t>(batch.length);
    for (auto* values : {&batch.inputs, &batch.targets, &batch.positions, &batch.document_ids})
        values->resize(static_cast<size_t>(count) * length);
    for (int64_t i = 0; i < count; ++i) {
        const Window window = windows[first + i];
        const auto row_of = [&](std::vector<int32_t>& values) {
            return std::span(values).subspan(static_cast<size_t>(i) * length, length);
        };
        row.source->fill({.sample = first + i, .unit = window.first}, document_mask,
                         {row_of(batch.inputs), row_of(batch.targets), row_of(batch.positions),
                          row_of(batch.document_ids)});
        std::fill_n(row_of(batch.targets).begin(), batch.length - window.scored,
                    core::data::kIgnoredTarget);
        batch.sample_ids.push_back(first + i);
    }
    return batch;
}

int64_t text_bytes(const std::vector<int32_t>& targets, const core::data::Tokenizer& tokenizer) {
    int64_t bytes = 0;
    for (int32_t token : targets)
        if (token != core::data::kIgnoredTarget && token != tokenizer.end_of_document())
            bytes += static_cast<int64_t>(tokenizer.token_bytes(token).size());
    return bytes;
}

/// A line on standard error every ten seconds.
class Progress {
  public:
    Progress(const Session& session, std::string what, int64_t batches)
        : session_(session),
          what_(std::move(what)),
          batches_(batches),
          began_(session.seconds()),
          next_(began_ + interval) {}

    /// Before this micro-batch, the first of which is number 0.
    void at(int64_t batch) {
        const double now = session_.seconds();
        if (!session_.speaks() || batch == 0 || now < next_) return;
        next_ = now + interval;
        const double left =
            (now - began_) * static_cast<double>(batches_ - batch) / static_cast<double>(batch);
        core::io::print_best_effort(stderr, fmt::format("{}: {}/{} micro-batches, ETA {:.0f} s\n",
                                                        what_, batch, batches_, left));
    }

  private:
    static constexpr double interval = 10.0;
    const Session& session_;
    std::string what_;
    int64_t batches_;
    double began_;
    double next_;
};

ScoreOptions score_options(const EvaluateSection& section, const RestoredModel& restored) {
    ScoreOptions options{.length = section.sequence_length > 0
                                       ? section.sequence_length
                                       : restored.config.data.sequence_length,
                         .micro_batch = section.micro_batch,
                         .max_tokens = section.max_tokens,
                         .dtype = section.dtype};
    options.stride = section.stride > 0 ? section.stride : options.length;
    REQUIRE(config, options.stride <= options.length,
            "evaluate.stride: {} is over the window of {} tokens: those between would not be "
            "counted",
            options.stride, options.length);
    const TransformerConfig& model = restored.model->config();
    REQUIRE(config,
            model.positions != TransformerConfig::Positions::learned ||
                options.length <= model.max_positions,
            "evaluate.sequence_length: {} is over the {} positions of {}", options.length,
            model.max_positions, restored.folder);
    return options;
}

TokenRow open_row(const EvaluateSection& section, const std::string& input,
                  const RestoredModel& restored, Session& session) {
    const auto& tokenizer = *restored.tokenizer;
    if (section.format == EvaluateFormat::shards)
        return open_shards(session.files(), input, section.split, tokenizer);
    const int64_t most = section.max_tokens > 0 ? section.max_tokens + 1 : INT64_MAX;
    return read_text_row(session.files(), input, section.format, section.field, tokenizer, most);
}

Score total_of(const std::vector<Score>& scores) {
    Score total{.name = "all"};
    for (const Score& one : scores) {
        total.loss_sum += one.loss_sum;
        total.tokens += one.tokens;
        total.correct += one.correct;
        total.bytes += one.bytes;
        total.windows += one.windows;
    }
    return total;
}

core::io::Json report(const RestoredModel& restored, const ScoreOptions& options,
                      const std::vector<Score>& scores) {
    core::io::Json json = core::io::Json::object();
    json["checkpoint"] = restored.folder;
    json["step"] = restored.step;
    json["dtype"] = options.dtype == ComputeType::bf16 ? "bf16" : "fp32";
    json["sequence_length"] = options.length;
    json["stride"] = options.stride;
    json["micro_batch"] = options.micro_batch;
    for (const Score& one : scores)
        json["results"].push_back(to_json(one));
    json["total"] = to_json(total_of(scores));
    return json;
}

}  // namespace

double Score::loss() const {
    return loss_sum / static_cast<double>(tokens);
}
double Score::perplexity() const {
    return std::exp(loss());
}
double Score::bits_per_byte() const {
    return loss_sum / std::numbers::ln2 / static_cast<double>(bytes);
}
double Score::accuracy() const {
    return static_cast<double>(correct) / static_cast<double>(tokens);
}

Score score(const RestoredModel& restored, const TokenRow& row, const ScoreOptions& options,
            Session& session) {
    REQUIRE(data, row.tokens >= 2, "{}: one token is too little to predict any", row.name);
    const int64_t tokens =
        options.max_tokens > 0 ? std::min(row.tokens, options.max_tokens + 1) : row.tokens;
    const SlidingWindows windows(tokens, options.length, options.stride);
    const int64_t rows = options.micro_batch, batches = (windows.count() + rows - 1) / rows;
    const bool document_mask = restored.config.data.document_mask;
    const parallel::PhaseMark mark(session.activity(), parallel::Phase::evaluate);
    parallel::StepScalars scalars(batches, session.world());
    std::array<int64_t, 2> counts{};
    std::vector<int64_t> bytes(static_cast<size_t>(batches));  // of what this rank has loaded
    Progress progress(session, row.name, batches);
    const auto load = [&](int64_t i) {
        progress.at(i);
        auto loaded = load_windows(row, windows, i * rows,
                                   std::min(rows, windows.count() - i * rows), document_mask);
        bytes[static_cast<size_t>(i)] = text_bytes(loaded.targets, *restored.tokenizer);
        return loaded;
    };
    ForwardPasses passes(*restored.model, *restored.groups, session,
                         {.schedule = schedule_config(restored.config.parallel),
                          .dtype = dtype_of(options.dtype),
                          .document_mask = document_mask});
    const int64_t at_once = options.passes * restored.groups->size(parallel::Axis::data);
    for (int64_t first = 0; first < batches; first += at_once)
        passes.run(first, std::min(first + at_once, batches), load, [&](const ReadLoss& loss) {
            scalars.set_slot(loss.slot, loss.cross_entropy, loss.weight);
            counts[0] += loss.correct;
            counts[1] += bytes[static_cast<size_t>(loss.slot)];
        });
    scalars.reduce(session.world());
    session.ranks().sum(counts);
    return {.name = row.name,
            .loss_sum = scalars.loss_sum(),
            .tokens = scalars.weight(),
            .correct = counts[0],
            .bytes = counts[1],
            .windows = windows.count()};
}

std::string to_table(const std::vector<Score>& scores) {
    std::vector<Score> lines = scores;
    if (lines.size() > 1) lines.push_back(total_of(scores));
    size_t width = 4;
    for (const Score& line : lines)
        width = std::max(width, line.name.size());
    std::string text = fmt::format("{:{}}  {:>12}  {:>10}  {:>10}  {:>9}  {:>8}", "data", width,
                                   "tokens", "loss", "perplexity", "bits/byte", "accuracy");
    for (const Score& line : lines)
        text += fmt::format("\n{:{}}  {:>12}  {:>10.6f}  {:>10.4f}  {:>9.4f}  {:>8.4f}", line.name,
                            width, line.tokens, line.loss(), line.perplexity(),
                            line.bits_per_byte(), line.accuracy());
    return text;
}

core::io::Json to_json(const Score& score) {
    core::io::Json json = core::io::Json::object();
    json["name"] = score.name;
    json["tokens"] = score.tokens;
    json["bytes"] = score.bytes;
    json["windows"] = score.windows;
    json["loss"] = score.loss();
    json["loss_hex"] = fmt::format("{:a}", score.loss());
    json["perplexity"] = score.perplexity();
    json["bits_per_byte"] = score.bits_per_byte();
    json["accuracy"] = score.accuracy();
    return json;
}

int evaluate(const EvaluateConfig& config, Session& session) {
    const EvaluateSection& section = config.evaluate;
    if (section.format == EvaluateFormat::classification)
        return evaluate_classifier(config, session);
    const RestoredModel restored =
        RestoredModel::open(section.checkpoint, config.parallel, session);
    const ScoreOptions options = score_options(section, restored);
    std::vector<TokenRow> rows;  // all are opened before the first is scored
    for (const std::string& input : section.data)
        rows.push_back(open_row(section, input, restored, session));
    std::vector<Score> scores;
    const TraceRange range("evaluate");
    for (const TokenRow& row : rows)
        scores.push_back(score(restored, row, options, session));
    if (!section.output.empty() && session.speaks())
        core::io::write_atomically(session.files(), section.output,
                                   report(restored, options, scores).dump(2) + "\n");
    session.print_result(fmt::format("{} at step {}, windows of {} tokens, stride {}",
                                     restored.folder, restored.step, options.length,
                                     options.stride));
    session.print_result(to_table(scores));
    return 0;
}

}  // namespace plinth::launch
