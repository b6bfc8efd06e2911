// SPDX-License-Identifier: Apache-2.0
// What rows of kernels share that memory bounds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "benchmarks/gpu/model_rows.h"

namespace plinth::test {

constexpr DType bf16 = DType::bf16, f32 = DType::f32;
constexpr double half_size = 2.0, full_size = 4.0;

/// Rows of one model.
class Rows {
  public:
    explicit Rows(const ModelSizes& model) : model_(model) {}

    void add(const std::string& name, const Shape& shape, double bytes,
             std::function<KernelCall(DeviceTensors&)> prepare) {
        rows_.push_back({.name = model_.name + " " + name,
                         .shape = shape.text(),
                         .work = {.bytes = bytes},
                         .prepare = std::move(prepare)});
    }
    std::vector<TableRow> take() { return std::move(rows_); }

  private:
    const ModelSizes& model_;
    std::vector<TableRow> rows_;
};

inline double count(const Shape& shape) {
    return static_cast<double>(shape.elements());
}

/// In optimizer_rows.cpp.
void add_optimizer(Rows& rows, const ModelSizes& model);

}  // namespace plinth::test
