// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "core/data/prepare.h"
#include "core/io/file.h"

namespace plinth::test {

/// Writes `texts` to FOLDER/NAME.jsonl, prepares them into FOLDER/NAME and gives that path back.
/// `held_out` is the share of the split of that name.
inline std::string prepare_texts(const std::string& folder, const std::string& name,
                                 const std::vector<std::string>& texts, double held_out = 0,
                                 const std::string& tokenizer = "byte") {
    auto& files = core::io::posix();
    std::string lines;
    for (const std::string& text : texts)
        lines += fmt::format("{{\"text\": \"{}\"}}\n", text);
    core::data::PrepareConfig config;
    config.source.inputs = {core::io::join(folder, name + ".jsonl")};
    config.output = core::io::join(folder, name);
    config.tokenizer = tokenizer;
    config.held_out = held_out;
    core::io::write_atomically(files, config.source.inputs.front(), lines);
    core::data::prepare(config, files);
    return config.output;
}

/// "document 0 of WHAT", "document 1 of WHAT" and so on.
inline std::vector<std::string> numbered_documents(int count, const std::string& what) {
    std::vector<std::string> texts;
    for (int i = 0; i < count; ++i)
        texts.push_back(fmt::format("document {} of {}", i, what));
    return texts;
}

}  // namespace plinth::test
