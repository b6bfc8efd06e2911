// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#include "kernels/gelu_mlp.h"

#include <cmath>

#include "tests/gpu/device_test.h"
#include "tests/support/cases/matmul.h"

namespace plinth::test {
namespace {

using kernels::Gelu;
using kernels::Matmul;

class GeluMlpTest : public DeviceTest {
  protected:
    struct Extents {
        int64_t m, n, k;
    };

    static Operand values(const std::string& name, const Shape& shape, DType dtype, float scale) {
        std::vector<float> all(static_cast<size_t>(shape.elements()));
        uint32_t state = static_cast<uint32_t>(name.size()) * 0x9E3779B9u + 1u;
        for (float& value : all) {
            state = state * 1664525u + 1013904223u;
            value =
                scale * static_cast<float>(static_cast<int32_t>(state >> 16) - 32768) * 0x1p-15f;
        }
        return input_of(name, shape, all, dtype);
    }
    /// The right factor such that products are about as large as GELU's bend is wide.
    static Operand right(const Extents& e, bool transposed, DType dtype) {
        return values("right side", transposed ? Shape{e.n, e.k} : Shape{e.k, e.n}, dtype,
                      6.0f / std::sqrt(static_cast<float>(e.k)));
    }
    static double tolerance(DType dtype) { return dtype == DType::bf16 ? 1.6e-2 : 5e-5; }

    void expect_forward(const Extents& e, DType dtype, Gelu form, bool with_bias) {
        std::vector<Operand> all = {output("h", {e.m, e.n}, dtype, tolerance(dtype)),
                                    output("pre", {e.m, e.n}, dtype, tolerance(dtype)),
                                    values("left", {e.m, e.k}, dtype, 1.0f), right(e, true, dtype)};
        if (with_bias) all.push_back(values("the bias", {e.n}, DType::f32, 1.0f));
        expect_same(
            all,
            [form](const std::vector<View>& v, Stream& stream) {
                kernels::matmul_gelu(v[0], v[1], v[2], v[3],
                                     v.size() > 4 ? ConstView(v[4]) : ConstView(), form,
                                     {.transpose_b = true}, stream);
            },
            text("forward", e, dtype, form));
    }
    void expect_backward(const Extents& e, DType dtype, Gelu form) {
        expect_same(
            {output("dpre", {e.m, e.n}, dtype, tolerance(dtype)),
             values("left", {e.m, e.k}, dtype, 0.3f), right(e, false, dtype),
             values("before gelu", {e.m, e.n}, dtype, 5.0f)},
            [form](const std::vector<View>& v, Stream& stream) {
                kernels::matmul_gelu_backward(v[0], v[1], v[2], v[3], form, {}, stream);
            },
            text("backward", e, dtype, form));
    }
    void expect_all(const Extents& e) {
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const Gelu form : {Gelu::tanh, Gelu::erf}) {
                for (const bool with_bias : {false, true})
                    expect_forward(e, dtype, form, with_bias);
                expect_backward(e, dtype, form);
            }
    }

  private:
    static std::string text(const char* pass, const Extents& e, DType dtype, Gelu form) {
        return fmt::format("{} {}x{}x{} {} {}", pass, e.m, e.n, e.k, name_of(dtype),
                           form == Gelu::tanh ? "tanh" : "erf");
    }
};

class FastGeluMlpTest : public GeluMlpTest {
  protected:
    FastGeluMlpTest() { options_ = {}; }
};

// Rows of pre of 5, 7 and 1 elements are the library's own to refuse; those of 64 and 24 it takes.
TEST_F(GeluMlpTest, OddAndEvenSizes) {
    for (const MatmulCase& c : matmul_test_cases)
        expect_all({c.rows, c.outputs, c.inputs});
    expect_all({33, 24, 40});
    expect_all({128, 256, 64});
}

TEST_F(FastGeluMlpTest, OddAndEvenSizes) {
    for (const MatmulCase& c : matmul_test_cases)
        expect_all({c.rows, c.outputs, c.inputs});
    expect_all({33, 24, 40});
    expect_all({128, 256, 64});
}

TEST_F(GeluMlpTest, Gpt2Sizes) {
    for (const int64_t tokens : {48, 129}) {
        expect_forward({tokens, 3072, 768}, DType::bf16, Gelu::tanh, true);
        expect_backward({tokens, 3072, 768}, DType::bf16, Gelu::tanh);
    }
}

TEST_F(FastGeluMlpTest, Gpt2Sizes) {
    for (const int64_t tokens : {48, 129}) {
        expect_forward({tokens, 3072, 768}, DType::bf16, Gelu::tanh, true);
        expect_backward({tokens, 3072, 768}, DType::bf16, Gelu::tanh);
    }
}

/// Which way the work went shows in the names of the library's algorithms.
std::string algorithms_after(const std::vector<View>& v, Stream& stream) {
    std::string saved;
    kernels::matmul_gelu(v[0], v[1], v[2], v[3], v[4], Gelu::tanh, {.transpose_b = true}, stream);
    kernels::matmul_gelu_backward(v[5], v[2], v[6], v[1], Gelu::tanh, {}, stream);
    kernels::save_matmul_algorithms(saved, stream);
    return saved;
}

std::vector<Operand> both_passes() {
    const int64_t m = 64, n = 256, k = 128;
    return {output("h", {m, n}, DType::bf16, 0.0),
            output("pre", {m, n}, DType::bf16, 0.0),
            input("left", {m, k}, DType::bf16),
            input("up", {n, k}, DType::bf16),
            input("the bias", {n}),
            output("dpre", {m, n}, DType::bf16, 0.0),
            input("the way down", {k, n}, DType::bf16)};
}

TEST_F(FastGeluMlpTest, TheLibraryDoesBothPasses) {
    std::string saved;
    on_device(both_passes(), [&](const std::vector<View>& v, Stream& stream) {
        saved = algorithms_after(v, stream);
    });
    EXPECT_NE(saved.find(" gelu ld 256"), std::string::npos) << saved;
    EXPECT_NE(saved.find(" gelu' ld 256"), std::string::npos) << saved;
}

TEST_F(GeluMlpTest, WherePromisedGeluOfTheKeptValuesGivesTheSameBits) {
    std::string saved;
    const auto all = on_device(both_passes(), [&](const std::vector<View>& v, Stream& stream) {
        saved = algorithms_after(v, stream);
    });
    const auto remade = on_device(both_passes(), [&](const std::vector<View>& v, Stream& stream) {
        algorithms_after(v, stream);
        kernels::gelu_forward(v[0], v[1], Gelu::tanh, stream);
    });
    EXPECT_EQ(remade[0], all[0]);
    EXPECT_EQ(saved.find(" gelu ld"), std::string::npos) << saved;
    EXPECT_NE(saved.find(" gelu' ld 256"), std::string::npos) << saved;
}

}  // namespace
}  // namespace plinth::test
