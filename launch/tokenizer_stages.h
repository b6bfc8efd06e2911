// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/config/stage_config.h"

namespace plinth::launch {

/// `plinth tokenizer train`: learns a byte-level BPE from raw text, cleaned like a data set's, and
/// writes its folder.
int train_tokenizer(const TokenizerConfig& config);

/// `plinth tokenizer encode TOKENIZER [FILE ...] [print=ids|counts] [field=text]`: the ids of each
/// document on a line, or the counts. Without a file, standard input is one document. The text is
/// taken as it is, not cleaned.
int encode_text(const std::vector<std::string>& words);

}  // namespace plinth::launch
