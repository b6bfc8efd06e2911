// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/stream.h"
#include "kernels/view.h"

namespace plinth::test {

/// One argument of a kernel: host memory with its first content.
struct Operand {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    /// Largest |device - host| / (|host| + 1) allowed after the call; below 0 the operand is input
    /// only and must not change.
    double tolerance = -1.0;
    std::vector<std::byte> bytes;

    int64_t elements() const { return shape.elements(); }
};

/// Random values in [-1, 1), the same for the same name and size.
Operand input(const std::string& name, const Shape& shape, DType dtype = DType::f32);
Operand input_of(const std::string& name, const Shape& shape, const std::vector<float>& values,
                 DType dtype = DType::f32);
Operand input_of(const std::string& name, const Shape& shape, const std::vector<int32_t>& values);
Operand input_of(const std::string& name, const Shape& shape, const std::vector<int64_t>& values);
Operand input_of(const std::string& name, const Shape& shape, const std::vector<double>& values);
/// Poisoned with a pattern; compared after the call.
Operand output(const std::string& name, const Shape& shape, DType dtype, double tolerance);
/// Has content before the call and is compared after it.
Operand in_out(Operand operand, double tolerance);
/// 1.2e-5 for fp32, 1.6e-2 (two steps of bf16) for bf16: what sums in another order may differ by.
double usual_tolerance(DType dtype);

/// A test that needs a CUDA device, and is skipped with the reason where none is.
class DeviceTest : public ::testing::Test {
  protected:
    void SetUp() override;

    /// A kernel call; operand i is views[i]. An operand with an empty shape gives an empty view.
    using Call = std::function<void(const std::vector<View>& views, Stream& stream)>;
    /// Runs the call on the CPU and on the device from the same operands and compares: outputs
    /// within their tolerance, inputs and the guard bytes around every operand unchanged, and
    /// nineteen more runs on the device with the same bits.
    void expect_same(const std::vector<Operand>& operands, const Call& call,
                     const std::string& what);
    /// Outputs of the call on the device, all operands, as doubles.
    std::vector<std::vector<double>> on_device(const std::vector<Operand>& operands,
                                               const Call& call);
    std::vector<std::vector<double>> on_host(const std::vector<Operand>& operands,
                                             const Call& call);

    /// Set before the first use of the device to change it.
    StreamOptions options_{.reproducible = true};

  private:
    Stream& device_stream();
    std::vector<std::vector<std::byte>> run_on_device(const std::vector<Operand>& operands,
                                                      const Call& call);
    std::unique_ptr<Stream> device_stream_;
    Stream host_stream_{2};
};

}  // namespace plinth::test
