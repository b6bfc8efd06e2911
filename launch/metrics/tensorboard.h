// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/io/file.h"
#include "launch/metrics/sink.h"

namespace plinth::launch {

/// A scalar of a TensorBoard event.
using Scalar = std::pair<std::string, float>;

/// TFRecord framing: u64 length, masked CRC-32C of the length, payload, masked CRC-32C of it.
std::string tensorboard_record(const std::string& payload);

/// Payloads of the protobuf message tensorflow.Event.
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, const std::vector<Scalar>& scalars);
/// Makes TensorBoard drop what earlier files of the folder hold from `step` on.
std::string restart_event(double wall_time, int64_t step);

/// An event file with the tag names that the field graphs ("lm loss", "grad-norm", ...). The series
/// over samples has a file of its own in FOLDER/samples: a restart drops every tag of a folder from
/// one step on, and its steps are sample counts.
class TensorboardLog final : public MetricsSink {
  public:
    struct Options {
        std::string folder;
        double wall_time = 0;  ///< seconds since 1970; names the file
        std::string host = "localhost";
        int64_t process = 0;
        int64_t resumed_step = 0;     ///< steps done before this process; later ones are dropped
        int64_t resumed_samples = 0;  ///< samples consumed by then
    };
    TensorboardLog(core::io::FileSystem& files, const Options& options);

    void step(const StepRecord& record) override;
    void evaluation(const EvaluationRecord& record) override;

  private:
    std::unique_ptr<core::io::WritableFile> by_step_;
    std::unique_ptr<core::io::WritableFile> by_samples_;
};

}  // namespace plinth::launch
