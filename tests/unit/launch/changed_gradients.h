// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "launch/layout_run.h"

namespace plinth::test {

/// Stands between the parameters of a rank and what collects their gradients; `change` gets each
/// finished one of a micro-batch, on the thread of its rank.
class ChangedGradients {
  public:
    using Change = std::function<void(int rank, const std::string& name, int use, View dweight)>;
    explicit ChangedGradients(Change change) : change_(std::move(change)) {}

    /// Must outlive the training.
    launch::LayoutDoubles doubles() {
        return {.before_training = [this](int rank, core::models::Model& model) {
            for (core::Parameter* parameter : model.parameters().all()) {
                const std::lock_guard lock(mutex_);
                sinks_.push_back(std::make_unique<Sink>(*parameter->sink(), rank, change_));
                parameter->set_sink(sinks_.back().get());
            }
        }};
    }

  private:
    struct Sink final : core::GradientSink {
        Sink(core::GradientSink& to, int of_rank, const Change& how)
            : sound(to), rank(of_rank), change(how) {}
        void add(core::Parameter& parameter, int use,
                 FunctionRef<void(View dweight)> product) override {
            sound.add(parameter, use, [&](View dweight) {
                product(dweight);
                change(rank, parameter.name(), use, dweight);
            });
        }
        core::GradientSink& sound;
        int rank;
        const Change& change;
    };

    Change change_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<core::GradientSink>> sinks_;
};

}  // namespace plinth::test
