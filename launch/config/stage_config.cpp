// SPDX-License-Identifier: Apache-2.0
#include "launch/config/stage_config.h"

#include <fmt/format.h>

#include <set>

#include "launch/config/text.h"

namespace plinth::launch {
namespace {

template <class T>
std::optional<Problem> missing(const char* key, const T& value, const char* question) {
    if (!value.empty()) return {};
    return Problem{key, fmt::format("is missing: {}", question)};
}

/// A document takes its text, a cleaned copy, its ids and their packed form: about eight times its
/// bytes.
template <class Section>
void resolve_document_bytes(Section& section) {
    if (section.max_document_bytes == 0) section.max_document_bytes = section.memory / 8;
}

/// Of a stage that reads a corpus.
template <class Section>
std::optional<Problem> validate_documents(const std::string& name, const Section& section) {
    if (!section.document_separator.empty()) return {};
    return Problem{name + ".document_separator",
                   "is empty: choose file, blank_line or a text between documents"};
}

}  // namespace

// Fine-tuning takes small, even steps: other defaults than pretraining.
FinetuneConfig::FinetuneConfig() {
    optimizer.lr = 5e-5;
    optimizer.min_lr = 0;
    optimizer.beta2 = 0.999;
    optimizer.weight_decay = 0.01;
    optimizer.schedule = ScheduleKind::linear;
    train.global_batch = 32;
    train.micro_batch = 4;
    train.eval_batches = 100'000;  // held-out examples are few: all of them
    run.folder = "runs/finetune";
}

void resolve(PrepareConfig& config) {
    PrepareSection& prepare = config.prepare;
    if (prepare.name.empty()) prepare.name = last_part(prepare.output);
    resolve_document_bytes(prepare);
}

void resolve(TokenizerConfig& config) {
    resolve_document_bytes(config.tokenizer);
}

void resolve(FinetuneConfig& config) {
    resolve(config.train);
    resolve(config.checkpoint, config.run);
}

void resolve(EvaluateConfig& config) {
    EvaluateSection& evaluate = config.evaluate;
    if (evaluate.stride == 0) evaluate.stride = evaluate.sequence_length;
}

void resolve(GenerateConfig&) {}

void resolve(VerifyConfig& config) {
    resolve(config.run);
}

std::optional<Problem> validate(const PrepareConfig& config) {
    const PrepareSection& prepare = config.prepare;
    if (auto problem = missing("prepare.inputs", prepare.inputs, "which text shall be prepared?"))
        return problem;
    if (auto problem = missing("prepare.output", prepare.output, "where shall the data set go?"))
        return problem;
    if (auto problem = validate_documents("prepare", prepare)) return problem;
    return missing("prepare.tokenizer", prepare.tokenizer, "`byte` or a tokenizer's folder");
}

std::optional<Problem> validate(const TokenizerConfig& config) {
    const TokenizerSection& tokenizer = config.tokenizer;
    if (auto problem = missing("tokenizer.inputs", tokenizer.inputs, "which text to learn from?"))
        return problem;
    if (auto problem =
            missing("tokenizer.output", tokenizer.output, "where shall the tokenizer go?"))
        return problem;
    if (auto problem = validate_documents("tokenizer", tokenizer)) return problem;
    return missing("tokenizer.end_token", tokenizer.end_token, "how is the end token written?");
}

std::optional<Problem> validate(const FinetuneSection& finetune) {
    if (auto problem =
            missing("finetune.files", finetune.files, "which examples shall be learnt from?"))
        return problem;
    if (!finetune.labels.empty() && finetune.mode != FinetuneMode::classification)
        return Problem{"finetune.labels", "only finetune.mode classification has labels"};
    if (std::set<std::string>(finetune.labels.begin(), finetune.labels.end()).size() !=
        finetune.labels.size())
        return Problem{"finetune.labels", "names a label twice"};
    return {};
}

std::optional<Problem> validate(const FinetuneConfig& config) {
    const FinetuneSection& finetune = config.finetune;
    if (auto problem = validate(finetune)) return problem;
    if (auto problem = missing("checkpoint.init", config.checkpoint.init,
                               "which checkpoint shall be fine-tuned?"))
        return problem;
    TrainSection train = config.train;
    if (finetune.epochs > 0) {
        if (train.steps || train.tokens)
            return Problem{"finetune.epochs", "train.steps or train.tokens is given too"};
        train.steps = 1;  // the length comes from the examples; check the rest of the section
    } else if (!train.steps && !train.tokens) {
        return Problem{"finetune.epochs", "is missing: how long shall it train? (or train.steps)"};
    }
    if (auto problem = validate(train)) return problem;
    if (auto problem = validate(config.optimizer)) return problem;
    return validate(config.parallel, config.train);
}

std::optional<Problem> validate(const EvaluateConfig& config) {
    const EvaluateSection& evaluate = config.evaluate;
    if (auto problem =
            missing("evaluate.checkpoint", evaluate.checkpoint, "which model shall be evaluated?"))
        return problem;
    if (auto problem = missing("evaluate.data", evaluate.data, "on which data?")) return problem;
    if (evaluate.sequence_length > 0 && evaluate.stride > evaluate.sequence_length)
        return Problem{"evaluate.stride",
                       fmt::format("{} is over sequence_length {}: tokens between the windows "
                                   "would not be counted",
                                   evaluate.stride, evaluate.sequence_length)};
    if (evaluate.format == EvaluateFormat::classification && config.parallel.pipeline > 1)
        return Problem{"parallel.pipeline",
                       fmt::format("{} stages, but evaluate.format=classification measures whole "
                                   "models: set parallel.pipeline=1",
                                   config.parallel.pipeline)};
    return validate_for_reading(config.parallel);
}

std::optional<Problem> validate(const GenerateConfig& config) {
    const GenerateSection& generate = config.generate;
    if (auto problem =
            missing("generate.checkpoint", generate.checkpoint, "which model shall write?"))
        return problem;
    if (auto problem = missing("generate.prompts", generate.prompts, "what shall be continued?"))
        return problem;
    return validate_for_reading(config.parallel);
}

std::optional<Problem> validate(const VerifyConfig& config) {
    if (auto problem = validate(config.run)) return problem;
    return validate_language_model(config.run.model);
}

}  // namespace plinth::launch
