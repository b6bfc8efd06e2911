// SPDX-License-Identifier: Apache-2.0
#include "launch/config/reference.h"

#include <fmt/format.h>

#include "launch/config/stage_config.h"

namespace plinth::launch {
namespace {

const char* const introduction = R"(# Configuration reference

Printed from the code by `plinth config reference`; a test keeps this page equal to it. Do not edit.

A configuration is a YAML file of sections and keys. Keys left out have the default below. Order of
precedence, lowest first: defaults, files named by `include`, the file, the command line.

    include: gpt2_124m.yaml        # or a list of files; relative to this file, read first
    train:
      steps: 20000
      micro_batch: 4

On the command line, after the file:

| word | meaning |
|---|---|
| `train.steps=200` | set a key; everything after `=` is taken as it stands |
| `run.name="a, b"` | a value that starts with a quote, `[` or `{` is read as YAML |
| `data.sources=[a, {path: b}]` | a list (quote the word for the shell); `a` is `{path: a}` |
| `data.sources.0.weight=2` | one element of a list, counted from 0 |
| `train.tokens=null` | no value, where a key allows it |
| `~optimizer.lr` | back to the default; also for a whole section |

Unknown keys, wrong types and values out of range are errors that name file, line, column and the
nearest valid key. `true` and `false` are the only bools. Sizes are `4096`, `512MiB` (powers of
1024) or `2GB` (powers of 1000); durations are `90`, `90s` or `2h30m`. Aliases, anchors, tags, merge
keys, duplicate keys, more than 32 levels and files over 1 MiB are refused.

*Resume* says what a key that changed since the checkpoint means when a run goes on: **free**
changes no bit of the training; **recorded** is allowed with a warning, and bitwise comparability
with the old run ends there; **refused** would be another run: start it with `checkpoint.init`
instead.
)";

std::string escape_cell(const std::string& text) {
    std::string escaped;
    for (const char c : text) {
        if (c == '|') escaped += '\\';
        escaped += c;
    }
    return escaped;
}

std::string key_row(const Key& key, const std::string& name, bool with_resume) {
    const std::string range = key.attributes.range();
    const std::string unit = key.attributes.unit;
    std::string text = fmt::format(
        "| `{}` | {} | `{}` | {} | {} |", name, escape_cell(key.type),
        escape_cell(key.default_text), escape_cell(range.empty() ? "" : range),
        escape_cell(key.attributes.doc + (unit.empty() ? "" : fmt::format(" ({})", unit))));
    if (with_resume) text += fmt::format(" {} |", to_string(key.resume));
    return text + "\n";
}

template <class Config>
std::string stage(const std::string& title, bool with_resume) {
    Config config;
    Schema schema;
    declare(schema, config);
    return fmt::format("\n## {}\n{}", title, reference_markdown(schema, with_resume));
}

}  // namespace

std::string reference_markdown(const Schema& schema, bool with_resume) {
    std::string text;
    for (const Section& section : schema.sections()) {
        text += fmt::format("\n### `{}`\n\n{}\n\n", section.path, section.doc);
        text += fmt::format("| key | type | default | range | meaning (unit) |{}\n",
                            with_resume ? " resume |" : "");
        text += fmt::format("|---|---|---|---|---|{}\n", with_resume ? "---|" : "");
        for (const Key& key : schema.keys()) {
            if (!key.path.starts_with(section.path + ".")) continue;
            text += key_row(key, key.path, with_resume);
            for (const Key& inner : key.element)
                text += key_row(inner, fmt::format("{}[].{}", key.path, inner.path), with_resume);
        }
    }
    return text;
}

std::string configuration_reference() {
    return introduction + stage<RunConfig>("plinth pretrain", true) +
           stage<FinetuneConfig>("plinth finetune", true) +
           stage<PrepareConfig>("plinth data prepare", false) +
           stage<TokenizerConfig>("plinth tokenizer train", false) +
           stage<EvaluateConfig>("plinth evaluate", false) +
           stage<GenerateConfig>("plinth generate", false) +
           stage<VerifySection>("plinth verify: the keys of plinth pretrain, and", false);
}

}  // namespace plinth::launch
