// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/io/json.h"

namespace plinth::launch {

/// How often each class was taken for each: the exact counts that all metrics come from.
class Confusion {
  public:
    explicit Confusion(int64_t classes);

    /// Classes are 0 .. classes - 1; others are internal errors.
    void add(int64_t truth, int64_t predicted);

    int64_t classes() const { return classes_; }
    int64_t count(int64_t truth, int64_t predicted) const { return counts_[at(truth, predicted)]; }
    /// [truth, predicted], row-major. Ranks that shared the examples sum it.
    std::span<int64_t> counts() { return counts_; }

  private:
    size_t at(int64_t truth, int64_t predicted) const;

    int64_t classes_;
    std::vector<int64_t> counts_;
};

struct ClassMetrics {
    int64_t examples = 0;    ///< that belong to the class
    int64_t predicted = 0;   ///< that were taken for it
    double precision = 0.0;  ///< right / predicted
    double recall = 0.0;     ///< right / examples
    double f1 = 0.0;         ///< 2 right / (predicted + examples): their harmonic mean
};

/// A ratio with a denominator of 0 is 0. The macro figures are plain means over the classes that
/// occur, as truth or as prediction, so that a rare class counts like a frequent one; macro_f1 is
/// the mean of the classes' F1.
struct ClassificationMetrics {
    int64_t examples = 0;
    double accuracy = 0.0;
    double macro_precision = 0.0;
    double macro_recall = 0.0;
    double macro_f1 = 0.0;
    std::vector<ClassMetrics> classes;
};

ClassificationMetrics classification_metrics(const Confusion& confusion);
/// The same from one label an example.
ClassificationMetrics classification_metrics(std::span<const int32_t> truth,
                                             std::span<const int32_t> predicted, int64_t classes);

/// A table for people, a line a class; `names` in class order.
std::string to_table(const ClassificationMetrics& metrics, const std::vector<std::string>& names);
/// {"examples", "accuracy", "macro_precision", ..., "classes": [{"label", "precision", ...}]}.
core::io::Json to_json(const ClassificationMetrics& metrics, const std::vector<std::string>& names);

}  // namespace plinth::launch
