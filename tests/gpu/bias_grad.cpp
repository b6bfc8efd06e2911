// SPDX-License-Identifier: Apache-2.0
#include "kernels/bias_grad.h"

#include <cmath>
#include <cstring>

#include "kernels/matmul.h"
#include "tests/gpu/device_test.h"
#include "tests/support/cases/matmul.h"
#include "tests/support/emulated_device.h"

namespace plinth::test {
namespace {

class BiasGradTest : public DeviceTest {
  protected:
    static double tolerance(DType dtype) { return dtype == DType::bf16 ? 1.6e-2 : 1e-4; }

    static std::vector<Operand> linear(const MatmulCase& c, DType dtype) {
        return {output("dweight", {c.outputs, c.inputs}, DType::f32, 1e-3),
                output("dbias", {c.outputs}, DType::f32, 1e-4),
                input("dy", {c.rows, c.outputs}, dtype), input("x", {c.rows, c.inputs}, dtype)};
    }
    static void call_linear(const std::vector<View>& v, Stream& stream) {
        kernels::linear_grads(v[0], v[1], v[2], v[3], stream);
    }
    /// Such that products are about as large as their factors, whatever the inner extent: their
    /// roundings then do not outgrow a sum over the tokens in which they cancel.
    static Operand scaled_weight(const MatmulCase& c, DType dtype) {
        const Operand full = input("weight", {c.inputs, c.outputs});
        std::vector<float> values(static_cast<size_t>(full.elements()));
        std::memcpy(values.data(), full.bytes.data(), full.bytes.size());
        for (float& value : values)
            value /= std::sqrt(static_cast<float>(c.inputs));
        return input_of("weight", full.shape, values, dtype);
    }
    static std::vector<Operand> behind_gelu(const MatmulCase& c, DType dtype) {
        return {output("dpre", {c.rows, c.outputs}, dtype, tolerance(dtype)),
                // Sums of elements that were rounded, or sums that the library rounds.
                output("dbias", {c.outputs}, DType::f32, 2 * tolerance(dtype)),
                input("dy", {c.rows, c.inputs}, dtype), scaled_weight(c, dtype),
                input("pre", {c.rows, c.outputs}, dtype)};
    }
    static void call_behind_gelu(const std::vector<View>& v, Stream& stream) {
        kernels::gelu_linear_grads(v[0], v[1], v[2], v[3], v[4], stream);
    }

    void expect_all() {
        std::vector<MatmulCase> cases = matmul_test_cases;
        cases.push_back({"even", 128, 64, 256});
        for (const MatmulCase& c : cases)
            for (const DType dtype : {DType::f32, DType::bf16}) {
                const std::string what = std::string(c.name) + " " + std::string(name_of(dtype));
                expect_same(linear(c, dtype), call_linear, what);
                expect_same(behind_gelu(c, dtype), call_behind_gelu, what + " behind gelu");
            }
    }
};

/// Streams on which the library does what it can.
class FastBiasGradTest : public BiasGradTest {
  protected:
    FastBiasGradTest() { options_ = {}; }
};

TEST_F(BiasGradTest, OddAndEvenSizes) {
    expect_all();
}

TEST_F(FastBiasGradTest, OddAndEvenSizes) {
    expect_all();
}

/// Which way the work went shows in the names of the library's algorithms.
TEST_F(FastBiasGradTest, TheLibraryDoesBoth) {
    if (!is_emulated_device())
        GTEST_SKIP() << "whether cuBLASLt does is what `gpu_benchmarks dbias` asks";
    const MatmulCase c{"", 64, 128, 256};
    std::string saved;
    on_device(linear(c, DType::bf16), [&](const std::vector<View>& v, Stream& stream) {
        call_linear(v, stream);
        kernels::save_matmul_algorithms(saved, stream);
    });
    EXPECT_NE(saved.find("->f32 bias gradient"), std::string::npos) << saved;
    on_device(behind_gelu(c, DType::bf16), [&](const std::vector<View>& v, Stream& stream) {
        call_behind_gelu(v, stream);
        kernels::save_matmul_algorithms(saved, stream);
    });
    EXPECT_NE(saved.find("->bf16 bias gradient"), std::string::npos) << saved;
    EXPECT_NE(saved.find(" gelu' ld 256"), std::string::npos) << saved;
}

TEST_F(BiasGradTest, WhereBitsArePromisedTheOwnKernelSums) {
    const MatmulCase c{"", 64, 128, 256};
    std::string saved;
    on_device(linear(c, DType::bf16), [&](const std::vector<View>& v, Stream& stream) {
        call_linear(v, stream);
        kernels::save_matmul_algorithms(saved, stream);
    });
    EXPECT_EQ(saved.find("bias gradient"), std::string::npos) << saved;
}

}  // namespace
}  // namespace plinth::test
