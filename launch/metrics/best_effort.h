// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "launch/metrics/sink.h"

namespace plinth::launch {

/// A log whose disk may be full for a while: what cannot be written is dropped, each record is
/// tried anew, and the run goes on. Warns at the first record that is dropped and when writing
/// works again.
class BestEffortSink final : public MetricsSink {
  public:
    using Warn = std::function<void(const std::string&)>;
    /// `name`: of the log, in warnings.
    BestEffortSink(std::unique_ptr<MetricsSink> sink, std::string name, Warn warn)
        : sink_(std::move(sink)), name_(std::move(name)), warn_(std::move(warn)) {}

    void step(const StepRecord& record) override;
    void evaluation(const EvaluationRecord& record) override;

  private:
    void attempt(const std::function<void()>& write);

    std::unique_ptr<MetricsSink> sink_;
    std::string name_;
    Warn warn_;
    int64_t dropped_ = 0;  ///< in a row
};

}  // namespace plinth::launch
