// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/progress_line.h"

#include <fmt/format.h>

#include <cmath>

#include "core/io/print.h"
#include "launch/config/text.h"

namespace plinth::launch {
namespace {

std::string memory_text(int64_t bytes) {
    const auto amount = static_cast<double>(bytes);
    if (bytes >= int64_t{1} << 30) return fmt::format("{:.2f}GiB", amount / (1 << 30));
    return fmt::format("{:.1f}MiB", amount / (1 << 20));
}

}  // namespace

std::string progress_line(const StepRecord& record) {
    std::string text = fmt::format("step {}/{}", record.step, record.total_steps);
    text += fmt::format("  loss {:.6f}  lr {:.3e}  grad-norm {:.4f}", record.loss,
                        record.learning_rate, record.grad_norm);
    text += fmt::format("  tokens/s {:.0f}  ms/step {:.1f}  tflop/s/rank {:.3f}",
                        record.tokens_per_second, 1e3 * record.step_seconds,
                        1e-12 * record.flops_per_second);
    text += record.mfu ? fmt::format("  mfu {:.1f}%", 100 * *record.mfu) : "  mfu -";
    text += fmt::format("  memory {}  skipped {}  eta {}", memory_text(record.memory_bytes),
                        record.skipped_steps, format_seconds(std::round(record.eta_seconds)));
    return text;
}

std::string evaluation_line(const EvaluationRecord& record) {
    std::string text =
        fmt::format("step {}  held-out loss {:.6f} over {} of {} samples", record.step, record.loss,
                    record.held_out_samples, record.held_out_total);
    if (record.accuracy && record.macro_f1)
        text +=
            fmt::format("  accuracy {:.4f}  macro F1 {:.4f}", *record.accuracy, *record.macro_f1);
    else
        text +=
            fmt::format("  perplexity {:.4g}  bits/byte {}", std::exp(record.loss),
                        record.bits_per_byte ? fmt::format("{:.4f}", *record.bits_per_byte) : "-");
    return text + fmt::format("  seconds {:.1f}", record.seconds);
}

ProgressSink::ProgressSink(std::FILE* out, int64_t log_every, bool terminal)
    : out_(out), log_every_(log_every), terminal_(terminal) {}

void ProgressSink::step(const StepRecord& record) {
    const bool stays =
        record.step % log_every_ == 0 || record.step == 1 || record.step == record.total_steps;
    if (stays || terminal_) print(progress_line(record), stays);
}

void ProgressSink::evaluation(const EvaluationRecord& record) {
    print(evaluation_line(record), true);
}

void ProgressSink::print(const std::string& line, bool stays) {
    // "\x1b[K" clears what a longer line left behind.
    if (terminal_)
        core::io::print_best_effort(out_, fmt::format("\r{}\x1b[K{}", line, stays ? "\n" : ""));
    else
        core::io::print_best_effort(out_, line + "\n");
}

}  // namespace plinth::launch
