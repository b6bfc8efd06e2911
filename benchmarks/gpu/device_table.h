// SPDX-License-Identifier: Apache-2.0
// A table of what kernels reach on a device, beside what the device itself reaches.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/stream.h"
#include "kernels/view.h"

namespace plinth::test {

/// Memory of one row on the device. All of it is freed with the object.
class DeviceTensors {
  public:
    DeviceTensors(Stream& stream, MemorySource& memory) : stream_(stream), memory_(memory) {}
    ~DeviceTensors();
    DeviceTensors(const DeviceTensors&) = delete;
    DeviceTensors& operator=(const DeviceTensors&) = delete;

    /// Random values in [-1, 1) times `scale`: zeros would run faster than real data does.
    View random(const Shape& shape, DType dtype, float scale = 1.0f);
    View zeros(const Shape& shape, DType dtype);
    /// i32: numbers in [0, below), or 0, 1, .. below - 1, 0, ..
    View random_ids(const Shape& shape, int64_t below);
    View counting_ids(const Shape& shape, int64_t below);
    /// i32: 0 `length` times, then 1 `length` times, ..
    View document_ids(const Shape& shape, int64_t length);
    /// i32 [samples]: tokens - 1
    View last_places(int64_t samples, int64_t tokens);
    /// i32 [samples, T]: a class behind the last token of each sample, -100 elsewhere
    View last_labels(const Shape& shape);
    /// i64: 0, 1, ..
    View sample_numbers(int64_t count);
    size_t bytes() const { return bytes_; }

  private:
    View take(const Shape& shape, DType dtype);
    View upload(const Shape& shape, DType dtype, const void* data);

    struct Block {
        void* data;
        size_t bytes;
    };
    Stream& stream_;
    MemorySource& memory_;
    std::vector<Block> blocks_;
    size_t bytes_ = 0;
};

/// What one call does: bytes that must move (each input read once, each output written once) or
/// floating-point operations.
struct Work {
    double bytes = 0.0;
    double flops = 0.0;
};

using KernelCall = std::function<void(Stream&)>;

struct TableRow {
    std::string name;
    std::string shape;
    Work work;
    /// Makes one set of tensors and returns the call on it. Sets take turns, so that together they
    /// do not fit the L2 cache.
    std::function<KernelCall(DeviceTensors&)> prepare;
    /// It asks whether a library can do something: where it cannot, its message is the answer.
    bool may_be_refused = false;
};

struct TableOptions {
    std::string filter;          ///< part of the names to run; empty: all
    double milliseconds = 50.0;  ///< of one timing; the median of five counts
    size_t rotated_bytes = 256u << 20;
    bool only_once = false;  ///< each row is called once, to see that it can be; times say nothing
};

/// Prints a line a row as it is measured: time, GB/s beside the copy, TFLOP/s beside the product.
/// The rows named "copy" and "matmul 8192" are those ceilings and come first. A row that throws is
/// named with its message; the others follow. Returns how many threw.
int print_table(const std::vector<TableRow>& rows, const TableOptions& options);

}  // namespace plinth::test
