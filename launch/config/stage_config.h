// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/run_config.h"

// The configurations of the stages beside pretraining. Like a run's, every key's meaning, range and
// default is declared in stage_schema.cpp and printed in docs/configuration.md.
namespace plinth::launch {

enum class TextFormat { automatic, text, jsonl };
enum class NormalForm { none, nfc };
enum class InvalidUtf8 { replace, drop };

/// `plinth data prepare`: raw text to a data set of token shards.
struct PrepareSection {
    std::vector<std::string> inputs;
    TextFormat format = TextFormat::automatic;
    std::string field = "text";
    std::string document_separator = "file";
    int64_t max_document_bytes = 0;  ///< 0: an eighth of memory
    int64_t max_bad_lines = 100;
    InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
    std::string output;
    std::string name;  ///< empty: the last part of output
    std::string tokenizer = "byte";
    double held_out = 0.01;
    NormalForm normalize = NormalForm::nfc;
    bool deduplicate = true;
    int64_t min_characters = 1;
    int64_t shard_tokens = 250'000'000;
    int64_t seed = 1234;
    int64_t memory = int64_t{512} << 20;
    int64_t threads = 0;
};
struct PrepareConfig {
    PrepareSection prepare;
};

/// `plinth tokenizer train`: a byte-level BPE from raw text.
struct TokenizerSection {
    std::vector<std::string> inputs;
    TextFormat format = TextFormat::automatic;
    std::string field = "text";
    std::string document_separator = "file";
    int64_t max_document_bytes = 0;  ///< 0: an eighth of memory
    int64_t max_bad_lines = 100;
    InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
    std::string output;
    int64_t vocab_size = 32768;
    int64_t min_frequency = 2;
    std::string end_token = "<|endoftext|>";
    NormalForm normalize = NormalForm::nfc;
    int64_t memory = int64_t{512} << 20;
};
struct TokenizerConfig {
    TokenizerSection tokenizer;
};

enum class FinetuneMode { text, instruction, classification };

/// `plinth finetune`: a checkpoint (checkpoint.init) trained on examples.
struct FinetuneSection {
    FinetuneMode mode = FinetuneMode::text;
    std::vector<std::string> files;
    std::vector<std::string> held_out;
    std::string text_field = "text";
    std::string prompt_field = "prompt";
    std::string response_field = "response";
    std::string label_field = "label";
    std::vector<std::string> labels;
    int64_t sequence_length = 0;    ///< 0: that of the checkpoint
    double epochs = 0;              ///< 0: train.steps decides
    std::optional<double> dropout;  ///< empty: that of the checkpoint
    bool fresh_weights = false;
    int64_t seed = 1234;
};
struct FinetuneConfig {
    FinetuneConfig();

    FinetuneSection finetune;
    TrainSection train;
    OptimizerSection optimizer;
    ParallelSection parallel;
    CheckpointSection checkpoint;
    RunSection run;
};

enum class EvaluateFormat { shards, text, jsonl, classification };

/// `plinth evaluate`: loss, perplexity, bits per byte and accuracy of a checkpoint.
struct EvaluateSection {
    std::string checkpoint;
    std::vector<std::string> data;
    EvaluateFormat format = EvaluateFormat::shards;
    std::string split = "heldout";
    std::string field = "text";
    std::string label_field = "label";
    int64_t sequence_length = 0;  ///< 0: that of the checkpoint
    int64_t stride = 0;           ///< 0: sequence_length
    int64_t micro_batch = 8;
    int64_t max_tokens = 0;
    ComputeType dtype = ComputeType::fp32;
    std::string output;
    DeviceKind device = DeviceKind::automatic;
    int64_t threads = 0;
};
struct EvaluateConfig {
    EvaluateSection evaluate;
    ParallelSection parallel;
    RunSection run{.folder = {}};  ///< only how ranks are watched
};

/// `plinth generate`: text that continues prompts.
struct GenerateSection {
    std::string checkpoint;
    std::vector<std::string> prompts;
    int64_t max_tokens = 128;
    double temperature = 1;
    int64_t top_k = 0;
    double top_p = 1;
    int64_t seed = 1234;
    bool stream = true;
    bool cache = true;
    ComputeType dtype = ComputeType::fp32;
    DeviceKind device = DeviceKind::automatic;
    int64_t threads = 0;
};
struct GenerateConfig {
    GenerateSection generate;
    ParallelSection parallel;
    RunSection run{.folder = {}};  ///< only how ranks are watched
};

/// `plinth verify`: a run's configuration in other layouts.
enum class VerifyLayouts { all, own };
struct VerifySection {
    VerifyLayouts layouts = VerifyLayouts::own;
    int64_t steps = 20;
    std::vector<int64_t> ranks = {1, 2, 3, 4, 6, 8};
    double tolerance = 0.0;  ///< 0: by the dtype
};
struct VerifyConfig {
    RunConfig run;
    VerifySection verify;
};

void declare(Schema& schema, PrepareConfig& config);
void declare(Schema& schema, TokenizerConfig& config);
/// The section alone is what a checkpoint stores beside the run's configuration.
void declare(Schema& schema, FinetuneSection& finetune);
void declare(Schema& schema, FinetuneConfig& config);
void declare(Schema& schema, EvaluateConfig& config);
void declare(Schema& schema, GenerateConfig& config);
void declare(Schema& schema, VerifySection& verify);
void declare(Schema& schema, VerifyConfig& config);

void resolve(PrepareConfig& config);
void resolve(TokenizerConfig& config);
inline void resolve(FinetuneSection&) {}
void resolve(FinetuneConfig& config);
void resolve(EvaluateConfig& config);
void resolve(GenerateConfig& config);
void resolve(VerifyConfig& config);

std::optional<Problem> validate(const PrepareConfig& config);
std::optional<Problem> validate(const TokenizerConfig& config);
std::optional<Problem> validate(const FinetuneSection& finetune);
std::optional<Problem> validate(const FinetuneConfig& config);
std::optional<Problem> validate(const EvaluateConfig& config);
std::optional<Problem> validate(const GenerateConfig& config);
std::optional<Problem> validate(const VerifyConfig& config);

}  // namespace plinth::launch
