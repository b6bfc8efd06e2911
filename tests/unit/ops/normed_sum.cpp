// SPDX-License-Identifier: Apache-2.0
// Norms in a residual stream, beside the addition and the norm that they replace.
#include "core/ops/normed_sum.h"

#include "core/ops/add.h"
#include "core/ops/cast.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/rms_norm.h"
#include "kernels/add.h"
#include "kernels/cast.h"
#include "kernels/layer_norm.h"
#include "kernels/rms_norm.h"
#include "tests/support/cases/rows.h"
#include "tests/support/expect_error.h"
#include "tests/support/same_bits.h"
#include "tests/unit/ops/layer_run.h"

namespace plinth::test {
namespace {

using core::Tensor;
using core::ops::NormedSum;

constexpr double eps = 1e-5;

enum class Kind { layer, layer_without_bias, rms };
constexpr Kind kinds[] = {Kind::layer, Kind::layer_without_bias, Kind::rms};

class NormedSumTest : public LayerTest {
  protected:
    /// Weight and bias of two norms, and a bias at the end of each one's branch.
    void declare(int64_t width) {
        parameters_.clear();
        for (const char* name :
             {"weight 0", "bias 0", "weight 1", "bias 1", "branch 0", "branch 1"})
            parameter(name, {width});
    }
    core::Parameter& weight(size_t norm) { return *parameters_[2 * norm]; }
    core::Parameter* bias(Kind kind, size_t norm) {
        return kind == Kind::layer ? parameters_[2 * norm + 1].get() : nullptr;
    }
    Tensor norm(const Tensor& x, Kind kind, size_t number) {
        return kind == Kind::rms
                   ? core::ops::rms_norm(x, weight(number), eps)
                   : core::ops::layer_norm(x, weight(number), bias(kind, number), eps);
    }
    NormedSum fused(const Tensor& x, const Tensor& branch, Kind kind, size_t number) {
        return kind == Kind::rms ? core::ops::rms_norm_of_sum(x, branch, weight(number), eps)
                                 : core::ops::layer_norm_of_sum(x, branch, weight(number),
                                                                bias(kind, number), eps);
    }
    NormedSum composed(const Tensor& x, const Tensor& branch, Kind kind, size_t number) {
        const Tensor sum = branch.defined() ? core::ops::add(x, branch) : x;
        return {sum, norm(sum, kind, number)};
    }

    /// The residual stream of a block: two branches, of which the first is added in the second
    /// norm. A weight half that is put off keeps the gradient of its branch, which is that of the
    /// stream: that must not be overwritten then.
    Tensor block(const Tensor& x, Kind kind, bool is_fused) {
        const auto of_sum = [&](const Tensor& in, const Tensor& branch, size_t number) {
            return is_fused ? fused(in, branch, kind, number) : composed(in, branch, kind, number);
        };
        const auto branch_of = [&](const Tensor& in, size_t number) {
            return core::ops::add_bias(core::ops::gelu(in, kernels::Gelu::tanh),
                                       *parameters_[4 + number]);
        };
        const NormedSum first = of_sum(x, {}, 0);
        const NormedSum second = of_sum(first.sum, branch_of(first.y, 0), 1);
        return core::ops::add(second.sum, branch_of(second.y, 1));
    }
    Tensor input(const RowsCase& c, DType dtype, const char* name = "x") {
        return tensor(random_values(c.rows * c.width, name), {1, c.rows, c.width}, dtype);
    }
};

TEST_F(NormedSumTest, HasTheBitsOfTheComposition) {
    for (const RowsCase& c : rows_test_cases) {
        declare(c.width);
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const Kind kind : kinds)
                for (const bool remake : {false, true})
                    for (const bool later : {false, true})
                        for (const bool watch : {false, true}) {
                            const auto run = [&](bool is_fused) {
                                return differentiate(
                                    [&](const Tensor& x) { return block(x, kind, is_fused); },
                                    input(c, dtype),
                                    {.remake = remake, .later = later, .watch = watch});
                            };
                            const LayerResult expected = run(false), result = run(true);
                            EXPECT_EQ(result, expected)
                                << c.name << " " << name_of(dtype) << " " << static_cast<int>(kind)
                                << remake << later << watch;
                            EXPECT_EQ(result.kept, expected.kept);
                        }
    }
}

TEST_F(NormedSumTest, WithoutATapeItHasTheSameBits) {
    const RowsCase c{"", 193, 67};
    declare(c.width);
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Kind kind : kinds) {
            const auto run = [&](bool is_fused) {
                return differentiate([&](const Tensor& x) { return block(x, kind, is_fused); },
                                     input(c, dtype), {.is_recorded = false});
            };
            EXPECT_EQ(run(true), run(false));
        }
}

/// Mutant: the norm of a sum that nobody rounded to bf16.
TEST_F(NormedSumTest, ANormOfTheExactSumHasOtherBits) {
    const RowsCase c{"", 193, 67};
    declare(c.width);
    for (const Kind kind : kinds) {
        const auto y_of = [&](auto&& function) {
            return run(function, {input(c, DType::bf16), input(c, DType::bf16, "branch")});
        };
        const auto fused_y = y_of([&](const auto& t) { return fused(t[0], t[1], kind, 0).y; });
        EXPECT_EQ(fused_y, y_of([&](const auto& t) { return composed(t[0], t[1], kind, 0).y; }));
        EXPECT_NE(fused_y, y_of([&](const auto& t) {
                      const Tensor sum = core::ops::add(core::ops::cast(t[0], DType::f32),
                                                        core::ops::cast(t[1], DType::f32));
                      return core::ops::cast(norm(sum, kind, 0), DType::bf16);
                  }));
    }
}

/// dx alone, and dx with the gradient that comes to the sum from elsewhere, of the kernels.
class NormedSumGradientTest : public NormedSumTest {
  protected:
    static constexpr int64_t rows = 193, width = 67;

    Tensor empty(const Shape& shape, DType dtype) {
        return Tensor::empty(shape, dtype, *allocator_);
    }
    Tensor random(const char* name, DType dtype) {
        return tensor(random_values(rows * width, name), {rows, width}, dtype);
    }
    Tensor as(const Tensor& x, DType dtype) {
        Tensor y = empty(x.shape(), dtype);
        kernels::cast(y.out(), x.in(), stream_);
        return y;
    }
    Tensor sum(const Tensor& a, const Tensor& b) {
        Tensor y = empty(a.shape(), a.dtype());
        kernels::add(y.out(), a.in(), b.in(), stream_);
        return y;
    }
    /// In the dtype of x. With `in_place` dx is dsum.
    Tensor dx(Kind kind, const Tensor& dy, const Tensor& dsum, const Tensor& x,
              bool in_place = false) {
        const Tensor weight = tensor(random_values(width, "weight"), {width});
        Tensor y = empty(x.shape(), x.dtype()), dx = in_place ? dsum : empty(y.shape(), y.dtype());
        Tensor mean = empty({rows}, DType::f32), rstd = empty({rows}, DType::f32),
               blocks = empty({kernels::norm_blocks(rows), width}, DType::f32);
        if (kind == Kind::rms) {
            kernels::rms_norm_forward(y.out(), rstd.out(), {}, x.in(), {}, weight.in(), eps,
                                      stream_);
            kernels::rms_norm_backward(dx.out(), {}, dy.in(), dsum.in(), x.in(), weight.in(),
                                       rstd.in(), stream_);
        } else {
            kernels::layer_norm_forward(y.out(), mean.out(), rstd.out(), {}, x.in(), {},
                                        weight.in(), {}, static_cast<float>(eps), stream_);
            kernels::layer_norm_backward(dx.out(), blocks.out(), {}, dy.in(), dsum.in(), x.in(),
                                         weight.in(), mean.in(), rstd.in(), stream_);
        }
        return dx;
    }
};

TEST_F(NormedSumGradientTest, IsRoundedBeforeTheOtherIsAdded) {
    for (const Kind kind : kinds)
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const Tensor dy = random("dy", dtype), x = random("x", dtype),
                         dsum = random("dsum", dtype);
            const auto expected = to_doubles(sum(dsum, dx(kind, dy, {}, x)));
            EXPECT_EQ(to_doubles(dx(kind, dy, dsum, x)), expected) << name_of(dtype);
            EXPECT_EQ(to_doubles(dx(kind, dy, as(dsum, dtype), x, /*in_place=*/true)), expected)
                << name_of(dtype);
            if (dtype == DType::f32) continue;
            // Mutant: all of it in fp32, and one rounding.
            const Tensor exact =
                sum(as(dsum, DType::f32), dx(kind, as(dy, DType::f32), {}, as(x, DType::f32)));
            EXPECT_NE(to_doubles(as(exact, dtype)), expected);
        }
}

TEST_F(NormedSumTest, GradientsMatchFiniteDifferences) {
    for (const Kind kind : kinds) {
        declare(11);
        const RowsCase c{"", 70, 11};
        expect_gradients_match_differences(
            [&](const auto& t) {
                const NormedSum all = fused(t[0], t[1], kind, 0);
                return core::ops::add(all.sum, core::ops::gelu(all.y, kernels::Gelu::tanh));
            },
            {input(c, DType::f32), input(c, DType::f32, "branch")});
    }
}

/// One tensor as the gradient of both outputs, and gradients that come to one output alone.
TEST_F(NormedSumTest, GradientsOfEitherOutput) {
    const RowsCase c{"", 29, 31};
    declare(c.width);
    using Use = std::function<Tensor(const NormedSum&)>;
    const Use uses[] = {[](const NormedSum& all) { return core::ops::add(all.sum, all.y); },
                        [](const NormedSum& all) { return core::ops::add(all.sum, all.sum); },
                        [](const NormedSum& all) { return all.sum; },
                        [](const NormedSum& all) { return all.y; }};
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Kind kind : kinds)
            for (size_t i = 0; i < std::size(uses); ++i)
                for (const bool with_branch : {false, true}) {
                    const auto run = [&](bool is_fused) {
                        return gradients(
                            [&](const auto& t) {
                                const Tensor branch = with_branch ? t[1] : Tensor{};
                                return uses[i](is_fused ? fused(t[0], branch, kind, 0)
                                                        : composed(t[0], branch, kind, 0));
                            },
                            {input(c, dtype), input(c, dtype, "branch")});
                    };
                    const Gradients result = run(true), expected = run(false);
                    EXPECT_EQ(result.inputs, expected.inputs) << i << with_branch;
                    EXPECT_EQ(result.parameters, expected.parameters) << i << with_branch;
                }
}

TEST_F(NormedSumTest, ThreadsDoNotChangeBits) {
    const RowsCase c{"", 331, 129};
    declare(c.width);
    for (const Kind kind : kinds) {
        const auto of_threads = [&](int threads) {
            return differentiate([&](const Tensor& x) { return block(x, kind, true); },
                                 input(c, DType::bf16), {.threads = threads});
        };
        const LayerResult expected = of_threads(1);
        for (int threads = 2; threads <= 8; ++threads)
            EXPECT_EQ(of_threads(threads), expected) << threads;
    }
}

TEST_F(NormedSumTest, BranchesThatDoNotFitAreRefusedByName) {
    declare(7);
    for (const Kind kind : kinds)
        for (const auto& [shape, dtype] :
             {std::pair{Shape{3, 7}, DType::f32}, std::pair{Shape{2, 7}, DType::bf16}})
            expect_error(
                ErrorKind::internal,
                [&] {
                    run([&](const auto& t) { return fused(t[0], t[1], kind, 0).y; },
                        {tensor(random_values(14, "x"), {2, 7}),
                         tensor(random_values(shape.elements(), "b"), shape, dtype)});
                },
                "weight 0");
}

TEST_F(NormedSumGradientTest, KernelsRefuseASumWithoutABranchAndAGradientOfAnotherShape) {
    const Tensor x = random("x", DType::f32), short_dsum = tensor({1.0f}, {1});
    const Tensor weight = tensor(random_values(width, "weight"), {width});
    Tensor y = empty(x.shape(), x.dtype()), other = empty(x.shape(), x.dtype()),
           rstd = empty({rows}, DType::f32);
    for (const bool has_sum : {false, true})
        expect_error(
            ErrorKind::internal,
            [&] {
                kernels::rms_norm_forward(y.out(), rstd.out(), has_sum ? other.out() : View{},
                                          x.in(), has_sum ? ConstView{} : x.in(), weight.in(), eps,
                                          stream_);
            },
            "rms_norm_forward");
    for (const Kind kind : {Kind::rms, Kind::layer})
        expect_error(
            ErrorKind::internal, [&] { dx(kind, x, short_dsum, x); }, "dsum");
}

}  // namespace
}  // namespace plinth::test
