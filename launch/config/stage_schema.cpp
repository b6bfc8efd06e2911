// SPDX-License-Identifier: Apache-2.0
#include "launch/config/stage_config.h"

namespace plinth::launch {
namespace {

const Names<TextFormat> text_formats{
    {"auto", TextFormat::automatic}, {"text", TextFormat::text}, {"jsonl", TextFormat::jsonl}};
const Names<NormalForm> normal_forms{{"none", NormalForm::none}, {"nfc", NormalForm::nfc}};
const Names<InvalidUtf8> invalid_utf8_choices{{"replace", InvalidUtf8::replace},
                                              {"drop", InvalidUtf8::drop}};
const Names<VerifyLayouts> verify_layouts{{"own", VerifyLayouts::own}, {"all", VerifyLayouts::all}};
const Names<ComputeType> compute_types{{"fp32", ComputeType::fp32}, {"bf16", ComputeType::bf16}};

const char* const inputs_doc =
    "Files, folders and globs of raw text; `.gz` and `.zst` are read as they are.";
const char* const format_doc =
    "`text`: see document_separator; `jsonl`: a line is a document; `auto`: by the file's name.";

void declare_threads(Schema& schema, const std::string& path, int64_t* threads) {
    schema.key(
        path, threads,
        {.doc = "CPU threads; 0 means the cores that the process may use.", .min = 0, .max = 1024});
}

/// How raw text is cut into documents: of the stages that read a corpus.
template <class Section>
void declare_documents(Schema& schema, const std::string& name, Section& section) {
    schema.key(name + ".document_separator", &section.document_separator,
               {.doc = "Where a file of plain text ends one document and begins the next: `file` "
                       "(never), `blank_line`, or any other text, such as `<|endoftext|>`."});
    schema.bytes(name + ".max_document_bytes", &section.max_document_bytes,
                 {.doc = "A longer document, or line of JSON, is an error: it takes about eight "
                         "times as much memory. 0 means an eighth of `memory`.",
                  .unit = "bytes",
                  .min = 0});
    schema.key(name + ".max_bad_lines", &section.max_bad_lines,
               {.doc = "Lines of JSON without a text that are skipped and counted; one more is an "
                       "error.",
                .unit = "lines",
                .min = 0});
    schema.choice(name + ".invalid_utf8", &section.invalid_utf8, invalid_utf8_choices,
                  {.doc = "What happens to a document that is not well-formed UTF-8: `replace`: "
                          "each faulty part becomes U+FFFD; `drop`: it is left out."});
}

void declare_device(Schema& schema, const std::string& path, DeviceKind* device) {
    schema.choice(path, device, device_names(),
                  {.doc = "Where it computes: `auto` on a GPU where the machine has one."});
}

}  // namespace

void declare(Schema& schema, PrepareConfig& config) {
    PrepareSection& prepare = config.prepare;
    schema.section("prepare", "Raw text to a data set of token shards.", Resume::refused);
    schema.key("prepare.inputs", &prepare.inputs, {.doc = inputs_doc});
    schema.choice("prepare.format", &prepare.format, text_formats, {.doc = format_doc});
    schema.key("prepare.field", &prepare.field,
               {.doc = "The member of a JSON line with the text."});
    declare_documents(schema, "prepare", prepare);
    schema.key("prepare.output", &prepare.output,
               {.doc = "Folder of the data set; it must not hold a finished one."});
    schema.key("prepare.name", &prepare.name,
               {.doc = "Permanent name of the data set in blends; empty means the last part of "
                       "output."});
    schema.key("prepare.tokenizer", &prepare.tokenizer,
               {.doc = "`byte`, or a folder with vocab.json and merges.txt."});
    schema.key("prepare.held_out", &prepare.held_out,
               {.doc = "Share of documents that go to the held-out split.", .min = 0, .below = 1});
    schema.choice("prepare.normalize", &prepare.normalize, normal_forms,
                  {.doc = "Unicode normal form of the text."});
    schema.key("prepare.deduplicate", &prepare.deduplicate,
               {.doc = "Drop documents that are exactly the same as an earlier one."});
    schema.key("prepare.min_characters", &prepare.min_characters,
               {.doc = "Shorter documents are dropped.", .unit = "characters", .min = 0});
    schema.key("prepare.shard_tokens", &prepare.shard_tokens,
               {.doc = "Tokens in one shard file.", .unit = "tokens", .min = 1});
    schema.key("prepare.seed", &prepare.seed,
               {.doc = "Keys the shuffle of documents and the held-out choice.", .min = 0});
    schema.bytes("prepare.memory", &prepare.memory,
                 {.doc = "Bound on working memory; what does not fit is spilled to disk.",
                  .unit = "bytes",
                  .min = 1 << 20});
    declare_threads(schema, "prepare.threads", &prepare.threads);
}

void declare(Schema& schema, TokenizerConfig& config) {
    TokenizerSection& tokenizer = config.tokenizer;
    schema.section("tokenizer", "A byte-level BPE from raw text.", Resume::refused);
    schema.key("tokenizer.inputs", &tokenizer.inputs, {.doc = inputs_doc});
    schema.choice("tokenizer.format", &tokenizer.format, text_formats, {.doc = format_doc});
    schema.key("tokenizer.field", &tokenizer.field,
               {.doc = "The member of a JSON line with the text."});
    declare_documents(schema, "tokenizer", tokenizer);
    schema.key("tokenizer.output", &tokenizer.output,
               {.doc = "Folder for vocab.json and merges.txt."});
    schema.key(
        "tokenizer.vocab_size", &tokenizer.vocab_size,
        {.doc = "Tokens: 256 bytes, the merges and the end token.", .unit = "tokens", .min = 257});
    schema.key("tokenizer.min_frequency", &tokenizer.min_frequency,
               {.doc = "Pairs that are rarer are not merged.", .min = 1});
    schema.key("tokenizer.end_token", &tokenizer.end_token,
               {.doc = "The token that ends a document."});
    schema.choice("tokenizer.normalize", &tokenizer.normalize, normal_forms,
                  {.doc = "Unicode normal form of the text."});
    schema.bytes("tokenizer.memory", &tokenizer.memory,
                 {.doc = "Bound on the table of distinct words; when it outgrows that, the rarest "
                         "are dropped, with a warning that says how many.",
                  .unit = "bytes",
                  .min = 1 << 20});
}

void declare(Schema& schema, FinetuneSection& finetune) {
    schema.section("finetune", "Examples for the model in checkpoint.init.", Resume::refused);
    schema.choice(
        "finetune.mode", &finetune.mode,
        {{"text", FinetuneMode::text},
         {"instruction", FinetuneMode::instruction},
         {"classification", FinetuneMode::classification}},
        {.doc = "`text`: the loss is on every token; `instruction`: on the response only; "
                "`classification`: on a label, through a new head."});
    schema.key(
        "finetune.files", &finetune.files,
        {.doc = "Training examples: text, JSONL, or TSV; for `text` also data set folders."});
    schema.key("finetune.held_out", &finetune.held_out,
               {.doc = "Examples that are only evaluated.", .resume = Resume::free});
    schema.key("finetune.text_field", &finetune.text_field,
               {.doc = "Member or column with the text."});
    schema.key("finetune.prompt_field", &finetune.prompt_field,
               {.doc = "Member with the prompt (instruction)."});
    schema.key("finetune.response_field", &finetune.response_field,
               {.doc = "Member with the response (instruction)."});
    schema.key("finetune.label_field", &finetune.label_field,
               {.doc = "Member or column with the label (classification)."});
    schema.key("finetune.labels", &finetune.labels,
               {.doc = "The labels in class order; empty means all that occur, sorted."});
    schema.key("finetune.sequence_length", &finetune.sequence_length,
               {.doc = "Longest example, longer ones are cut; 0 means the checkpoint's.",
                .unit = "tokens",
                .min = 0});
    schema.key(
        "finetune.epochs", &finetune.epochs,
        {.doc = "Length of the run in passes over the examples; 0 means train.steps decides.",
         .unit = "epochs",
         .min = 0,
         .resume = Resume::recorded});
    schema.key(
        "finetune.dropout", &finetune.dropout,
        {.doc = "Dropout of this run; `null` means the checkpoint's.", .min = 0, .below = 1});
    schema.key("finetune.fresh_weights", &finetune.fresh_weights,
               {.doc = "Take only model and tokenizer from checkpoint.init and begin with fresh "
                       "weights: the baseline that shows what pretraining brought."});
    schema.key("finetune.seed", &finetune.seed, {.doc = "Keys the order of examples.", .min = 0});
}

void declare(Schema& schema, FinetuneConfig& config) {
    declare(schema, config.finetune);
    declare(schema, config.train);
    declare(schema, config.optimizer);
    declare(schema, config.parallel);
    declare(schema, config.checkpoint);
    declare(schema, config.run);
}

void declare(Schema& schema, EvaluateConfig& config) {
    EvaluateSection& evaluate = config.evaluate;
    schema.section("evaluate", "Loss and accuracy of a checkpoint.", Resume::free);
    schema.key("evaluate.checkpoint", &evaluate.checkpoint,
               {.doc = "A checkpoint, or a folder of them (the newest sound one)."});
    schema.key("evaluate.data", &evaluate.data, {.doc = "Data set folders, or files."});
    schema.choice("evaluate.format", &evaluate.format,
                  {{"shards", EvaluateFormat::shards},
                   {"text", EvaluateFormat::text},
                   {"jsonl", EvaluateFormat::jsonl},
                   {"classification", EvaluateFormat::classification}},
                  {.doc = "What evaluate.data holds."});
    schema.key("evaluate.split", &evaluate.split,
               {.doc = "Split of a data set: heldout or train."});
    schema.key("evaluate.field", &evaluate.field, {.doc = "Member or column with the text."});
    schema.key("evaluate.label_field", &evaluate.label_field,
               {.doc = "Member or column with the label."});
    schema.key(
        "evaluate.sequence_length", &evaluate.sequence_length,
        {.doc = "Length of a window; 0 means the checkpoint's.", .unit = "tokens", .min = 0});
    schema.key("evaluate.stride", &evaluate.stride,
               {.doc = "Tokens by which the window moves; a smaller one gives every token more "
                       "context; 0 means sequence_length.",
                .unit = "tokens",
                .min = 0});
    schema.key("evaluate.micro_batch", &evaluate.micro_batch,
               {.doc = "Windows in one forward pass.", .min = 1});
    schema.key("evaluate.max_tokens", &evaluate.max_tokens,
               {.doc = "Stop after this many; 0 means all.", .unit = "tokens", .min = 0});
    schema.choice("evaluate.dtype", &evaluate.dtype, compute_types,
                  {.doc = "Type of activations and compute weights."});
    schema.key("evaluate.output", &evaluate.output,
               {.doc = "JSON file for the result; empty means none."});
    declare_device(schema, "evaluate.device", &evaluate.device);
    declare_threads(schema, "evaluate.threads", &evaluate.threads);
    declare_for_reading(schema, config.parallel);
    declare_for_reading(schema, config.run);
}

void declare(Schema& schema, GenerateConfig& config) {
    GenerateSection& generate = config.generate;
    schema.section("generate", "Text that continues prompts.", Resume::free);
    schema.key("generate.checkpoint", &generate.checkpoint,
               {.doc = "A checkpoint, or a folder of them (the newest sound one)."});
    schema.key("generate.prompts", &generate.prompts, {.doc = "One continuation each."});
    schema.key("generate.max_tokens", &generate.max_tokens,
               {.doc = "Longest continuation.", .unit = "tokens", .min = 1});
    schema.key("generate.temperature", &generate.temperature,
               {.doc = "Divides the logits; 0 takes the most likely token.", .min = 0});
    schema.key("generate.top_k", &generate.top_k,
               {.doc = "Only the k most likely tokens; 0 means all.", .min = 0});
    schema.key("generate.top_p", &generate.top_p,
               {.doc = "Only the most likely tokens that together reach this probability.",
                .above = 0,
                .max = 1});
    schema.key("generate.seed", &generate.seed, {.doc = "Keys the choice of tokens.", .min = 0});
    schema.key("generate.stream", &generate.stream, {.doc = "Print tokens as they come."});
    schema.key("generate.cache", &generate.cache,
               {.doc = "Keep keys and values of earlier tokens; the same tokens, faster."});
    schema.choice("generate.dtype", &generate.dtype, compute_types,
                  {.doc = "Type of activations and compute weights."});
    declare_device(schema, "generate.device", &generate.device);
    declare_threads(schema, "generate.threads", &generate.threads);
    declare_for_reading(schema, config.parallel);
    declare_for_reading(schema, config.run);
}

void declare(Schema& schema, VerifySection& verify) {
    schema.section("verify", "Which layouts are trained for a few steps and compared.",
                   Resume::free);
    schema.choice("verify.layouts", &verify.layouts, verify_layouts,
                  {.doc = "`own`: the layout that the section parallel names, against one rank; "
                          "`all`: every layout that fills one of the worlds of verify.ranks."});
    schema.key("verify.steps", &verify.steps,
               {.doc = "Training steps in each layout.", .min = 1, .max = 100000});
    schema.key("verify.ranks", &verify.ranks,
               {.doc = "Sizes of the worlds; their ranks are threads of one process.",
                .min = 1,
                .max = 64});
    schema.key(
        "verify.tolerance", &verify.tolerance,
        {.doc = "By how much tensor and context parallel may differ from one rank, as a "
                "share of each loss, gradient norm and tensor of the first gradient; ten "
                "times that is allowed in moments and in what the run changes in each "
                "tensor of weights. 0 means 1e-5, with train.dtype=bf16 2e-2, and with train.fp8 "
                "2e-2 for losses and norms, 0.2 for gradients and 0.4 for the rest.",
         .min = 0});
}

void declare(Schema& schema, VerifyConfig& config) {
    declare(schema, config.run);
    declare(schema, config.verify);
}

}  // namespace plinth::launch
