// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluator.h"

#include <algorithm>
#include <chrono>

#include "kernels/runtime/trace.h"
#include "launch/build.h"
#include "parallel/data_parallel/step_scalars.h"

namespace plinth::launch {

namespace {
double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}
}  // namespace

Evaluator::Evaluator(const RunConfig& config, Session& session, const parallel::Groups& groups,
                     core::models::Model& model, const TrainingData& data)
    : config_(config),
      session_(session),
      data_(data),
      passes_(model, groups, session,
              {.schedule = schedule_config(config.parallel),
               .dtype = dtype_of(config.train.dtype),
               .document_mask = config.data.document_mask}),
      last_step_(total_steps(config.train, config.data.sequence_length)) {}

bool Evaluator::is_due(int64_t steps_done) const {
    return !data_.held_out.empty() && config_.train.eval_every > 0 && steps_done > 0 &&
           (steps_done % config_.train.eval_every == 0 || steps_done == last_step_);
}

EvaluationRecord Evaluator::evaluate(int64_t steps_done, int64_t samples,
                                     std::optional<double> training_loss) {
    const parallel::PhaseMark mark(session_.activity(), parallel::Phase::evaluate);
    const TraceRange range("evaluate");
    const double began = session_.seconds();
    const int64_t rows = config_.train.micro_batch;
    const std::vector<WindowRef> windows =
        data_.held_out_windows(config_.train.eval_batches * rows);
    const auto count = static_cast<int64_t>(windows.size()), batches = (count + rows - 1) / rows;
    parallel::StepScalars scalars(batches, session_.world());
    const auto load = [&](int64_t i) {
        const int64_t first = i * rows;
        return batch_of(
            std::span(windows).subspan(static_cast<size_t>(first),
                                       static_cast<size_t>(std::min(rows, count - first))),
            config_.data.sequence_length, config_.data.document_mask);
    };
    passes_.run(0, batches, load, [&](const ReadLoss& loss) {
        scalars.set_slot(loss.slot, loss.cross_entropy, loss.weight);
    });
    scalars.reduce(session_.world());
    EvaluationRecord record{.step = steps_done,
                            .samples = samples,
                            .wall_time = now(),
                            .held_out_samples = count,
                            .held_out_total = data_.held_out_samples()};
    record.loss = scalars.loss_sum() / static_cast<double>(std::max<int64_t>(1, scalars.weight()));
    if (data_.bits_per_byte_factor > 0)
        record.bits_per_byte = record.loss * data_.bits_per_byte_factor;
    record.seconds = session_.seconds() - began;
    if (const auto warning = overfitting_.add(record.loss, training_loss)) session_.warn(*warning);
    return record;
}

}  // namespace plinth::launch
