// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>

#include "launch/metrics/sink.h"

namespace plinth::launch {

/// One line of `key value` pairs in a stable order, two spaces between pairs, so that grep and awk
/// work; a value that is not known is "-":
///
///     step 120/2000  loss 3.214567  lr 6.000e-04  grad-norm 1.2340  tokens/s 12345  ms/step 663.7
///     tflop/s/rank 0.052  mfu 41.2%  memory 1.21GiB  skipped 0  eta 20m44s       (all on one line)
///
/// mfu is tokens/s x model FLOPs a token / ranks / peak (model_flops.h).
std::string progress_line(const StepRecord& record);

/// "step 120  held-out loss 3.301234 over 80 of 1234 samples  perplexity 27.15  bits/byte 1.2130
/// seconds 1.9", on one line.
std::string evaluation_line(const EvaluationRecord& record);

/// Prints every `log_every`-th step, the first and the last. On a terminal the steps between are
/// shown in place.
class ProgressSink final : public MetricsSink {
  public:
    /// `out` must outlive the sink. `terminal`: whether it is one.
    ProgressSink(std::FILE* out, int64_t log_every, bool terminal);

    void step(const StepRecord& record) override;
    void evaluation(const EvaluationRecord& record) override;

  private:
    void print(const std::string& line, bool stays);

    std::FILE* out_;
    int64_t log_every_;
    bool terminal_;
};

}  // namespace plinth::launch
