// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "core/io/file.h"
#include "core/io/json.h"
#include "launch/metrics/sink.h"

namespace plinth::launch {

/// metrics.jsonl: one JSON object a line, `"kind": "step"` or `"evaluation"`, both with `"step"`.
/// Losses stand twice, as a number and in hexadecimal (`"loss_hex": "0x1.9ap+1"`), so that runs can
/// be compared bit for bit. NaN and infinity are null as numbers and "nan", "inf" in hexadecimal.
class JsonlLog final : public MetricsSink {
  public:
    /// Continues the file, which must have been cut to the resumed step (`cut_metrics`).
    JsonlLog(core::io::FileSystem& files, const std::string& path);

    void step(const StepRecord& record) override;
    void evaluation(const EvaluationRecord& record) override;

  private:
    void write(const core::io::Json& line);

    std::unique_ptr<core::io::WritableFile> file_;
};

core::io::Json to_json(const StepRecord& record);
core::io::Json to_json(const EvaluationRecord& record);

/// Calls `use` with every object of a metrics file. A last line without its end, which a killed run
/// leaves behind, is passed over; any other line that is no object with a "step" is an error of
/// kind data that names the line. The file is read in pieces, whatever its size.
void read_metrics(core::io::FileSystem& files, const std::string& path,
                  const std::function<void(const core::io::Json&)>& use);

/// Drops what a run wrote after the checkpoint it resumes from: every line from the first whose
/// step is over `step`, the evaluations of `step` itself, which are made again (a checkpoint is
/// written before them), and a last line without its end. No file is no error. A line that cannot
/// be read, as a power cut may leave, ends what is kept, with a warning; the file as it was stays
/// beside the new one as PATH.damaged. Returns the number of bytes dropped.
uint64_t cut_metrics(core::io::FileSystem& files, const std::string& path, int64_t step,
                     const std::function<void(const std::string&)>& warn);

}  // namespace plinth::launch
