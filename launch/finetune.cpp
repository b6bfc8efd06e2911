// SPDX-License-Identifier: Apache-2.0
#include "launch/finetune.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/models/classifier.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/load.h"
#include "launch/exit_codes.h"
#include "launch/finetune_examples.h"
#include "launch/pretrain.h"
#include "launch/restored_classifier.h"
#include "launch/restored_model.h"
#include "launch/shard_check.h"
#include "parallel/context_parallel/zigzag.h"

namespace plinth::launch {

namespace {

using core::data::Dataset;
using core::data::ExampleSource;
using core::data::TextPair;

/// Model and tokenizer that the run goes on from.
struct Base {
    RunConfig config;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;

    /// From the run's own newest checkpoint, else from checkpoint.init: a resume must not need the
    /// checkpoint that the run began from, which may be gone.
    static Base open(const CheckpointSection& section, Session& session) {
        const auto ignore = [](const std::string&) {};  // the resume itself warns
        const bool resumes =
            session.speaks() &&
            checkpoints::open_newest(session.files(), section.folder, ignore).has_value();
        const std::string path =
            session.ranks().broadcast(resumes ? section.folder : section.init, 0);
        const checkpoints::Checkpoint checkpoint = open_checkpoint_together(path, session);
        const checkpoints::Manifest& manifest = checkpoint.manifest();
        Base base{.config = parse_config<RunConfig>(manifest.configuration,
                                                    checkpoint.folder() + ": configuration"),
                  .tokenizer = nullptr};
        base.tokenizer = checkpoint_tokenizer(checkpoint, base.config.model.vocab_size);
        return base;
    }
};

/// The run as the training loop and later stages know it: the checkpoint's model, this stage's
/// rest.
RunConfig run_config(const FinetuneConfig& config, const RunConfig& base) {
    const FinetuneSection& finetune = config.finetune;
    RunConfig run{.model = base.model,
                  .data = {},
                  .train = config.train,
                  .optimizer = config.optimizer,
                  .parallel = config.parallel,
                  .checkpoint = config.checkpoint,
                  .run = config.run};
    if (finetune.dropout) run.model.dropout = *finetune.dropout;
    if (finetune.fresh_weights) run.checkpoint.init.clear();
    run.data.sequence_length =
        finetune.sequence_length > 0 ? finetune.sequence_length : base.data.sequence_length;
    run.data.seed = finetune.seed;
    run.data.document_mask = base.data.document_mask;
    for (const std::string& path : finetune.files)
        run.data.sources.push_back({.path = path, .weight = 1, .name = ""});
    REQUIRE(config,
            run.model.positions != PositionKind::learned ||
                run.data.sequence_length <= run.model.max_positions,
            "finetune.sequence_length: {} tokens, but the checkpoint's model has learned positions "
            "for {}",
            run.data.sequence_length, run.model.max_positions);
    return run;
}

/// Examples in memory, as sources of the run.
class ExampleReader {
  public:
    ExampleReader(FinetuneSection& finetune, const Base& base, int64_t window, Session& session)
        : finetune_(finetune), base_(base), window_(window), session_(session) {}

    TrainingData read() {
        TrainingData data;
        data.tokenizer = base_.tokenizer;
        data.sources.push_back(source("finetune.files", finetune_.files, data));
        data.blend.push_back(data.sources.front()->describe());
        if (finetune_.held_out.empty()) return data;
        const auto held_out = source("finetune.held_out", finetune_.held_out, data);
        data.held_out.push_back({held_out, held_out->describe().units});
        return data;
    }

  private:
    std::shared_ptr<const ExampleSource> source(const char* key,
                                                const std::vector<std::string>& inputs,
                                                TrainingData& data) {
        ExampleSet set = examples(key, inputs);
        REQUIRE(data, !set.examples.empty(), "{}: no example in {}", key, fmt::join(inputs, ", "));
        session_.say(fmt::format("{}: {} examples, {} tokens{}", key, set.examples.size(),
                                 set.tokens, set.cut == 0 ? "" : fmt::format(", {} cut", set.cut)));
        if (set.cut > 0)
            session_.warn(fmt::format("{}: {} examples are longer than {} tokens and were cut", key,
                                      set.cut, window_));
        if (set.bytes > 0)
            data.bits_per_byte_factor = static_cast<double>(set.tokens) /
                                        static_cast<double>(set.bytes) / std::numbers::ln2;
        return std::make_shared<const ExampleSource>(
            key, std::move(set.examples), window_, base_.tokenizer->end_of_document().value_or(0));
    }

    ExampleSet examples(const std::string& key, const std::vector<std::string>& inputs) {
        core::io::FileSystem& files = session_.files();
        switch (finetune_.mode) {
            case FinetuneMode::instruction:
                return instruction_examples(
                    core::data::read_text_pairs(files, inputs, key, finetune_.prompt_field,
                                                finetune_.response_field),
                    *base_.tokenizer, window_);
            case FinetuneMode::classification:
                return labelled(core::data::read_text_pairs(
                    files, inputs, key, finetune_.text_field, finetune_.label_field));
            case FinetuneMode::text:
                break;
        }
        return text_examples(files, inputs, key, finetune_.text_field, *base_.tokenizer, window_);
    }

    /// Names them, so that text taken for labels is seen at once.
    void say_labels(size_t examples) {
        constexpr size_t shown = 10;
        const std::vector<std::string>& labels = finetune_.labels;
        const std::span<const std::string> first(labels.data(), std::min(labels.size(), shown));
        session_.say(fmt::format("finetune.files: {} labels: {}{}", labels.size(),
                                 fmt::join(first, ", "), labels.size() > shown ? ", ..." : ""));
        if (labels.size() > shown && 2 * labels.size() > examples)
            session_.warn(fmt::format(
                "finetune.files: {} labels for {} examples: does another column hold the label? In "
                "a TSV file it is the first; in JSONL finetune.label_field names it",
                labels.size(), examples));
    }

    ExampleSet labelled(const std::vector<TextPair>& pairs) {
        const std::vector<std::string> occurring = labels_of(pairs);
        if (finetune_.labels.empty()) {  // the training examples, which are read first
            REQUIRE(data, occurring.size() != 1,
                    "finetune.files: every example has the label \"{}\"; a classifier needs two or "
                    "more",
                    occurring.front());
            finetune_.labels = occurring;
            say_labels(pairs.size());
        }
        return classification_examples(pairs, finetune_.labels, *base_.tokenizer, window_);
    }

    FinetuneSection& finetune_;
    const Base& base_;
    int64_t window_;
    Session& session_;
};

/// True if all inputs are data sets of token shards; a mixture is refused.
bool are_datasets(const std::vector<std::string>& inputs, core::io::FileSystem& files) {
    const auto is_dataset = [&](const std::string& path) {
        return files.exists(core::io::join(path, core::data::DatasetManifest::kFileName));
    };
    const auto count = std::count_if(inputs.begin(), inputs.end(), is_dataset);
    REQUIRE(config, count == 0 || count == static_cast<int64_t>(inputs.size()),
            "finetune.files: {} of {} inputs are data sets, the others raw text; prepare all, or "
            "none",
            count, inputs.size());
    return count > 0;
}

TrainingData open_datasets(const FinetuneSection& finetune, RunConfig& run, const Base& base,
                           Session& session, bool verify) {
    core::io::FileSystem& files = session.files();
    REQUIRE(config, finetune.held_out.size() <= 1,
            "finetune.held_out: name one data set, whose held-out split is taken");
    if (!finetune.held_out.empty()) run.data.held_out = finetune.held_out.front();
    for (BlendSource& source : run.data.sources) {
        // By size, so that an epoch passes every token once.
        const auto set = Dataset::open(files, source.path, "train");
        source.weight = static_cast<double>(set->tokens());
    }
    if (verify)
        verify_shards(run.data, files, session.ranks(),
                      [&session](const std::string& line) { session.say(line); });
    TrainingData data = TrainingData::open(run, files);
    REQUIRE(config, data.tokenizer->content_hash() == base.tokenizer->content_hash(),
            "finetune.files: {} was made with another tokenizer than the checkpoint's; prepare it "
            "with that one",
            finetune.files.front());
    return data;
}

/// Fills in what depends on the examples: the length of the run and when it is evaluated.
void set_length(const FinetuneSection& finetune, RunConfig& run, const TrainingData& data) {
    const int64_t window = run.data.sequence_length;
    if (finetune.epochs > 0) {
        int64_t samples = 0;
        for (const core::data::BlendSource& source : data.blend)
            samples += source.examples ? source.units : source.units / window;
        const double wanted = std::ceil(finetune.epochs * static_cast<double>(samples));
        run.train.tokens = window * std::max<int64_t>(1, static_cast<int64_t>(wanted));
    }
    REQUIRE(config, run.train.eval_every == 0 || !data.held_out.empty(),
            "train.eval_every={}: there is nothing to evaluate on: name examples with "
            "finetune.held_out, or set train.eval_every=0",
            run.train.eval_every);
    if (!data.held_out.empty() && run.train.eval_every == 0)
        run.train.eval_every = total_steps(run.train, window);
}

/// Rows of padded examples may be shorter than the window.
std::optional<Problem> check_shortest(const RunConfig& run) {
    const int64_t shortest = core::data::padded_length(1, run.data.sequence_length);
    const int64_t context = parallel::context_multiple(run.parallel.context);
    if (shortest % std::lcm(context, run.parallel.context * run.parallel.tensor) == 0) return {};
    return Problem{context > 1 ? "parallel.context" : "parallel.tensor",
                   fmt::format("context {} x tensor {} ranks cannot share the {} tokens of short "
                               "examples evenly: take fewer, in powers of two",
                               run.parallel.context, run.parallel.tensor, shortest)};
}

void check(const RunConfig& run, FinetuneMode mode, bool datasets, int64_t ranks) {
    auto problem = validate(run);
    if (!problem && mode != FinetuneMode::classification)
        problem = validate_language_model(run.model);
    if (!problem) problem = validate_world(run, ranks);
    if (!problem && mode == FinetuneMode::classification && run.parallel.pipeline > 1)
        problem = Problem{"parallel.pipeline",
                          fmt::format("{} stages, but finetune.mode=classification measures whole "
                                      "models: set parallel.pipeline=1",
                                      run.parallel.pipeline)};
    if (!problem && mode == FinetuneMode::classification && run.parallel.context > 1)
        problem = Problem{"parallel.context",
                          fmt::format("{} ranks, but finetune.mode=classification looks at one "
                                      "token of a sequence: set parallel.context=1",
                                      run.parallel.context)};
    if (!problem && !datasets) problem = check_shortest(run);
    if (!problem) return;
    if (problem->key == "data.sequence_length") problem->key = "finetune.sequence_length";
    FAIL(config, "{}: {}", problem->key, problem->message);
}

/// What a resume must find unchanged besides the run's own keys, which are compared by the loop.
void compare_examples(const checkpoints::Manifest& manifest, const FinetuneSection& now,
                      std::vector<Change>& changes) {
    const auto blob = manifest.blobs.find(finetune_blob);
    if (blob == manifest.blobs.end()) {
        changes.push_back({.path = "stage",
                           .before = "pretrain",
                           .after = "finetune",
                           .resume = Resume::refused});
        return;
    }
    const auto before =
        parse_config<FinetuneSection>(blob->second, "the checkpoint's section finetune");
    for (Change& change : diff_configs(before, now))
        changes.push_back(std::move(change));
}

/// The parts of the model that this rank computes.
std::unique_ptr<core::models::Model> make_model(const FinetuneSection& finetune,
                                                const RunConfig& run,
                                                const parallel::Groups& groups) {
    if (finetune.mode != FinetuneMode::classification) return language_model(run, groups);
    return classifier(run, static_cast<int64_t>(finetune.labels.size()), groups);
}

/// Accuracy, precision, recall and F1 of a classifier on the held-out examples.
void measure_classifier(const core::models::Classifier& model, const TrainingData& data,
                        const FinetuneSection& finetune, const RunConfig& run,
                        const parallel::Groups& groups, Session& session,
                        EvaluationRecord& record) {
    const Confusion confusion = classify(model, *data.held_out.front().source,
                                         {.window = run.data.sequence_length,
                                          .micro_batch = run.train.micro_batch,
                                          .dtype = dtype_of(run.train.dtype),
                                          .groups = groups},
                                         session);
    const ClassificationMetrics metrics = classification_metrics(confusion);
    record.accuracy = metrics.accuracy;
    record.macro_f1 = metrics.macro_f1;
    session.say(to_table(metrics, finetune.labels));
}

}  // namespace

int finetune(const FinetuneConfig& config, Session& session, bool dry_run) {
    FinetuneSection section = config.finetune;  // labels are filled in
    const Base base = Base::open(config.checkpoint, session);
    RunConfig run = run_config(config, base.config);
    const bool datasets =
        section.mode == FinetuneMode::text && are_datasets(section.files, session.files());
    // Examples are padded: the mask keeps attention off the padding, also of bidirectional models.
    if (!datasets) run.data.document_mask = true;
    TrainingData data =
        datasets ? open_datasets(section, run, base, session, /*verify=*/!dry_run)
                 : ExampleReader(section, base, run.data.sequence_length, session).read();
    set_length(section, run, data);
    check(run, section.mode, datasets, session.world().size());
    parallel::Groups groups(session.world(), mesh_config(run.parallel));
    const auto model = make_model(section, run, groups);
    TrainingOptions options{.configuration = to_yaml(run),
                            .blobs = {{finetune_blob, to_yaml(section)}}};
    options.compare = [&](const checkpoints::Manifest& manifest, std::vector<Change>& changes) {
        compare_examples(manifest, section, changes);
    };
    if (const auto* classifier = dynamic_cast<const core::models::Classifier*>(model.get())) {
        options.is_new = core::models::Classifier::is_head;
        options.measure = [&, classifier](EvaluationRecord& record) {
            measure_classifier(*classifier, data, section, run, groups, session, record);
        };
    }
    if (dry_run) {
        print_plan(run, {data, *model, options.compare, options.is_new}, session);
        return exit_done;
    }
    session.lock_folders(run);
    Training training(run, session, groups, *model, data, std::move(options));
    return train(training, *model);
}

}  // namespace plinth::launch
