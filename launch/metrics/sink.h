// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "launch/metrics/record.h"

namespace plinth::launch {

/// Where measurements go. The training loop reports on every rank; ranks that write nothing hold a
/// NullSink, so the loop asks nobody for his rank.
class MetricsSink {
  public:
    virtual ~MetricsSink() = default;
    virtual void step(const StepRecord& record) = 0;
    virtual void evaluation(const EvaluationRecord& record) = 0;
};

class NullSink final : public MetricsSink {
  public:
    void step(const StepRecord&) override {}
    void evaluation(const EvaluationRecord&) override {}
};

/// Several sinks, in order.
class SinkList final : public MetricsSink {
  public:
    explicit SinkList(std::vector<std::unique_ptr<MetricsSink>> sinks) : sinks_(std::move(sinks)) {}

    void step(const StepRecord& record) override {
        for (const auto& sink : sinks_)
            sink->step(record);
    }
    void evaluation(const EvaluationRecord& record) override {
        for (const auto& sink : sinks_)
            sink->evaluation(record);
    }

  private:
    std::vector<std::unique_ptr<MetricsSink>> sinks_;
};

}  // namespace plinth::launch
