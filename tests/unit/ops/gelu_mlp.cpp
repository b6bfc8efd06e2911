// SPDX-License-Identifier: Apache-2.0
#include "core/ops/gelu_mlp.h"

#include "core/ops/gelu.h"
#include "tests/support/cases/matmul.h"
#include "tests/support/expect_error.h"
#include "tests/support/same_bits.h"
#include "tests/unit/ops/layer_run.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;
using kernels::Gelu;

struct How {
    bool fused = true;
    bool remake = false;
    bool remake_hidden = false;  ///< with remake
    bool later = false;
    bool watch = true;  ///< the gradient of x is wanted
    Gelu form = Gelu::tanh;
    bool with_biases = true;
    int threads = 2;
};

class GeluMlpTest : public LayerTest {
  protected:
    /// x is [rows, inputs], the hidden layer has `outputs`.
    void declare(const MatmulCase& c) {
        parameters_.clear();
        parameter("up", {c.outputs, c.inputs});
        parameter("up bias", {c.outputs});
        parameter("down", {c.inputs, c.outputs});
        parameter("down bias", {c.inputs});
    }
    Tensor input(const MatmulCase& c, DType dtype) {
        return tensor(random_values(c.rows * c.inputs, "x"), {1, c.rows, c.inputs}, dtype);
    }
    Tensor apply(const Tensor& x, const How& how) {
        Parameter *up_bias = how.with_biases ? parameters_[1].get() : nullptr,
                  *down_bias = how.with_biases ? parameters_[3].get() : nullptr;
        const core::ops::LinearUse up{{*parameters_[0]}, up_bias},
            down{{*parameters_[2]}, down_bias};
        if (how.fused) return core::ops::gelu_mlp(x, up, down, how.form);
        const Tensor hidden = core::ops::gelu(core::ops::linear(x, up.weight, up.bias), how.form);
        return core::ops::linear(hidden, down.weight, down.bias);
    }
    LayerResult differentiate(const Tensor& x, const How& how) {
        return LayerTest::differentiate([&](const Tensor& in) { return apply(in, how); }, x,
                                        {.remake = how.remake,
                                         .remake_hidden = how.remake_hidden,
                                         .later = how.later,
                                         .watch = how.watch,
                                         .threads = how.threads});
    }
};

TEST_F(GeluMlpTest, HasTheBitsOfTheComposition) {
    for (const MatmulCase& c : matmul_test_cases) {
        declare(c);
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const Gelu form : {Gelu::tanh, Gelu::erf})
                for (const bool with_biases : {false, true}) {
                    const How composed{.fused = false, .form = form, .with_biases = with_biases};
                    const LayerResult expected = differentiate(input(c, dtype), composed);
                    for (const auto& [remake, hidden] : std::vector<std::pair<bool, bool>>{
                             {false, false}, {true, false}, {true, true}})
                        for (const bool later : {false, true})
                            EXPECT_EQ(differentiate(input(c, dtype), {.remake = remake,
                                                                      .remake_hidden = hidden,
                                                                      .later = later,
                                                                      .form = form,
                                                                      .with_biases = with_biases}),
                                      expected)
                                << c.name << " " << name_of(dtype) << " " << with_biases << remake
                                << hidden << later;
                }
    }
}

TEST_F(GeluMlpTest, AnotherFunctionHasOtherBits) {
    const MatmulCase c{"", 33, 65, 17};
    declare(c);
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const LayerResult expected = differentiate(input(c, dtype), {});
        const LayerResult no_biases = differentiate(input(c, dtype), {.with_biases = false});
        const LayerResult other_form = differentiate(input(c, dtype), {.form = Gelu::erf});
        for (const LayerResult& other : {no_biases, other_form}) {
            EXPECT_NE(other.y, expected.y);
            EXPECT_NE(other.dx, expected.dx);
            for (const char* weight : {"up", "down"})
                EXPECT_NE(other.parameters.at(weight), expected.parameters.at(weight));
        }
    }
}

TEST_F(GeluMlpTest, GradientsMatchFiniteDifferences) {
    for (const Gelu form : {Gelu::tanh, Gelu::erf}) {
        declare({"", 6, 5, 7});
        expect_gradients_match_differences(
            [&](const auto& in) { return apply(in[0], {.form = form}); },
            {tensor(random_values(2 * 3 * 5, "x"), {2, 3, 5})});
    }
}

TEST_F(GeluMlpTest, KeepsTheHiddenLayerOnceWhereItIsMadeAgain) {
    const MatmulCase c{"", 64, 32, 128};
    declare(c);
    const size_t hidden = static_cast<size_t>(c.rows * c.outputs) * sizeof(float);
    EXPECT_EQ(differentiate(input(c, DType::f32), {.remake = true}).kept, hidden);
    EXPECT_EQ(differentiate(input(c, DType::f32), {.remake = false}).kept, 2 * hidden);
    EXPECT_EQ(differentiate(input(c, DType::f32), {.remake = true, .remake_hidden = true}).kept,
              0u);
}

TEST_F(GeluMlpTest, WeightsHaveGradientsWhereTheInputNeedsNone) {
    const MatmulCase c{"", 13, 31, 7};
    declare(c);
    const LayerResult wanted = differentiate(input(c, DType::f32), {});
    EXPECT_EQ(differentiate(input(c, DType::f32), {.watch = false}).parameters, wanted.parameters);
}

TEST_F(GeluMlpTest, WithoutATapeItHasTheSameBits) {
    const MatmulCase c{"", 13, 31, 7};
    declare(c);
    const LayerResult recorded = differentiate(input(c, DType::f32), {});
    EXPECT_EQ(run([&](const auto& in) { return apply(in[0], {}); }, {input(c, DType::f32)}),
              recorded.y);
}

TEST_F(GeluMlpTest, ThreadsDoNotChangeBits) {
    const MatmulCase c{"", 97, 101, 303};
    declare(c);
    for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_threads_do_not_change_bits(
            [&](Stream& stream) {
                const LayerResult found =
                    differentiate(input(c, dtype), {.threads = stream.pool().threads()});
                std::vector<double> all = found.y;
                all.insert(all.end(), found.dx.begin(), found.dx.end());
                for (const auto& [name, gradient] : found.parameters)
                    all.insert(all.end(), gradient.begin(), gradient.end());
                return all;
            },
            std::string(name_of(dtype)));
    }
}

TEST_F(GeluMlpTest, ShapesThatDoNotFitAreRefusedByName) {
    declare({"", 13, 31, 7});
    const Tensor narrow = tensor(random_values(8, "x"), {2, 4});
    expect_error(
        ErrorKind::internal,
        [&] { run([&](const auto& in) { return apply(in[0], {}); }, {narrow}); },
        "up: input [2, 4] does not fit weight [7, 31]");
}

}  // namespace
}  // namespace plinth::test
