// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/io/json.h"
#include "launch/config/stage_config.h"
#include "launch/restored_model.h"
#include "launch/session.h"
#include "launch/token_row.h"

namespace plinth::launch {

/// What a model scored over a row of tokens. All figures are per scored target token, the end of a
/// document included.
struct Score {
    std::string name;
    double loss_sum = 0.0;  ///< nats, added in the order of the windows
    int64_t tokens = 0;     ///< scored
    int64_t correct = 0;    ///< whose target has the largest logit
    int64_t bytes = 0;      ///< of the text of the scored tokens; the end of a document has none
    int64_t windows = 0;

    double loss() const;           ///< loss_sum / tokens, in nats
    double perplexity() const;     ///< exp(loss)
    double bits_per_byte() const;  ///< loss_sum / ln 2 / bytes: comparable between tokenizers
    double accuracy() const;       ///< correct / tokens
};

/// How windows are cut and run.
struct ScoreOptions {
    int64_t length = 0;
    int64_t stride = 0;
    int64_t micro_batch = 8;
    int64_t max_tokens = 0;  ///< scored targets; 0: all
    ComputeType dtype = ComputeType::fp32;
    /// Micro-batches of a copy of the model between two looks at their losses.
    int64_t passes = 256;
};

/// Collective. Scores every target of the row once (launch/sliding_windows.h). Documents follow
/// each other in a window as they do in training; where the checkpoint was trained with
/// data.document_mask, attention and positions stay within one. Copies of the model take
/// micro-batches in turn, and the result is the same, bit for bit, for any number of them and of
/// pipeline stages, and within rounding for tensor ranks. With stride = length, the same
/// micro-batch and dtype it equals the held-out loss of training.
Score score(const RestoredModel& restored, const TokenRow& row, const ScoreOptions& options,
            Session& session);

/// A line a score, and one for all if there are several.
std::string to_table(const std::vector<Score>& scores);
core::io::Json to_json(const Score& score);

/// `plinth evaluate`: a table on standard output, JSON in evaluate.output. Returns the exit code.
int evaluate(const EvaluateConfig& config, Session& session);

}  // namespace plinth::launch
