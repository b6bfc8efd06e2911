// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"
#include "core/autograd/scope.h"
#include "kernels/runtime/allocator.h"

namespace plinth::test {

/// Memory whose every block ends in guard bytes: a kernel that writes past its output is caught.
class GuardedMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override;
    void free(void* block, size_t bytes) override;
    /// Blocks, those given back too, whose guards before or after the payload were overwritten.
    int broken_guards() const;

  private:
    std::map<void*, size_t> blocks_;
    int broken_when_freed_ = 0;
};

/// Collects gradients by parameter and use, each in its own tensor.
class GradientMap final : public core::GradientSink {
  public:
    explicit GradientMap(CachingAllocator& allocator) : allocator_(allocator) {}
    void add(core::Parameter& parameter, int use, FunctionRef<void(View)> product) override;
    /// Sum over the uses, as doubles; zeros if none arrived.
    std::vector<double> of(const core::Parameter& parameter) const;
    void clear() { gradients_.clear(); }

  private:
    CachingAllocator& allocator_;
    std::map<std::pair<const core::Parameter*, int>, core::Tensor> gradients_;
};

/// Values in [-1, 1), the same for the same name and size on every machine.
std::vector<float> random_values(int64_t n, const std::string& name);
/// Rounded to bf16 and back.
std::vector<float> rounded_to_bf16(std::vector<float> values);

/// Surroundings of an op test: guarded memory, a stream, and a way to differentiate a function of
/// tensors and parameters.
class OpTest : public ::testing::Test {
  protected:
    explicit OpTest(int threads = 2);
    ~OpTest() override;

    core::Tensor tensor(const std::vector<float>& values, const Shape& shape,
                        DType dtype = DType::f32);
    core::Tensor indices(const std::vector<int32_t>& values, const Shape& shape);
    /// A parameter with random fp32 values, scaled.
    core::Parameter& parameter(const std::string& name, const Shape& shape, double scale = 0.5);

    /// y = f(inputs): outputs as doubles, without recording.
    using Function = std::function<core::Tensor(const std::vector<core::Tensor>&)>;
    std::vector<double> run(const Function& f, const std::vector<core::Tensor>& inputs);

    /// Gradients of sum_i r_i f(inputs)_i, with fixed pseudo-random r: of each input and of each
    /// parameter made here.
    struct Gradients {
        std::vector<std::vector<double>> inputs;
        std::map<std::string, std::vector<double>> parameters;
    };
    Gradients gradients(const Function& f, std::vector<core::Tensor> inputs);

    /// Compares them with central differences along random directions, summed in double.
    /// `tolerance` is relative to the size of the directional derivative's terms. fp32 only.
    void expect_gradients_match_differences(const Function& f, std::vector<core::Tensor> inputs,
                                            double step = 1e-2, double tolerance = 2e-3);

    /// bf16 gradients of f against fp32 ones at the same points: the norm of each difference must
    /// be at most `tolerance` of the norm of the gradient. `inputs` hold fp32 values, which are
    /// rounded first. Mutants, which must not pass: each gradient with one part in five of it lost,
    /// and those of `wrong`, another function of the same inputs and parameters, if there is one.
    void expect_bf16_gradients_follow_fp32(const Function& f,
                                           const std::vector<core::Tensor>& inputs,
                                           double tolerance, const Function& wrong = {});

    core::StepState step_;
    GuardedMemory memory_;
    std::unique_ptr<CachingAllocator> allocator_;
    Stream stream_;
    bool training_ = true;
    DType compute_ = DType::f32;
    std::vector<std::unique_ptr<core::Parameter>> parameters_;
    std::unique_ptr<GradientMap> sink_;

  private:
    core::Scope::Settings settings(core::Tape* tape);
    double projected(const Function& f, const std::vector<core::Tensor>& inputs);
};

std::vector<double> to_doubles(const core::Tensor& tensor);
/// Norm of the difference in parts of the norm of `expected`.
double norm_error(const std::vector<double>& actual, const std::vector<double>& expected);
/// Largest |a - b| / (|b| + 1) of all elements must be at most `tolerance`.
void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double tolerance, const std::string& what);

}  // namespace plinth::test
