// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/best_effort.h"

#include <fmt/format.h>

#include <exception>

namespace plinth::launch {

void BestEffortSink::step(const StepRecord& record) {
    attempt([&] { sink_->step(record); });
}

void BestEffortSink::evaluation(const EvaluationRecord& record) {
    attempt([&] { sink_->evaluation(record); });
}

void BestEffortSink::attempt(const std::function<void()>& write) {
    try {
        write();
    } catch (const std::exception& error) {
        if (dropped_++ == 0)
            warn_(
                fmt::format("{} is not written, the run goes on without: {}", name_, error.what()));
        return;
    }
    if (dropped_ > 0)
        warn_(fmt::format("{} is written again, {} records are missing", name_, dropped_));
    dropped_ = 0;
}

}  // namespace plinth::launch
