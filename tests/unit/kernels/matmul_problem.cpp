// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/matmul_problem.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

namespace plinth::test {
namespace {

using kernels::Matmul;
using namespace kernels::cuda;

/// Does what cuBLASLt documents for these operands, all column-major.
void execute(const MatmulProblem& p, const float* a, const float* b, const float* bias, float* d) {
    for (int64_t column = 0; column < p.n; ++column)
        for (int64_t row = 0; row < p.m; ++row) {
            float sum = 0.0f;
            for (int64_t i = 0; i < p.k; ++i) {
                const int64_t in_a = p.transpose_a ? i + row * p.lda : row + i * p.lda;
                const int64_t in_b = p.transpose_b ? column + i * p.ldb : i + column * p.ldb;
                sum += a[in_a] * b[in_b];
            }
            float& out = d[row + column * p.ldd];
            out = (p.accumulates ? out : 0.0f) + sum + (p.has_bias ? bias[row] : 0.0f);
        }
}

/// A row-major matrix of small integers, whose products are exact, with rows further apart than
/// they are long.
struct Matrix {
    Shape shape;
    Strides strides{};
    std::vector<float> values;

    Matrix(int64_t rows, int64_t columns, int64_t padding, int seed) : shape({rows, columns}) {
        strides = {columns + padding, 1};
        for (int64_t i = 0; i < rows * strides[0]; ++i)
            values.push_back(static_cast<float>((i * 37 + seed * 11) % 15 - 7));
    }
    View view() { return {values.data(), DType::f32, shape, strides}; }
    float at(int64_t row, int64_t column) const {
        return values[static_cast<size_t>(row * strides[0] + column)];
    }
};

struct Extents {
    int64_t m, n, k;
};

/// Whether the problem, executed as the library would, gives the row-major product and leaves what
/// lies between the rows.
bool gives_the_product(const Extents& e, const Matmul& options, bool with_bias,
                       const std::function<void(MatmulProblem&)>& change) {
    Matrix a(options.transpose_a ? e.k : e.m, options.transpose_a ? e.m : e.k, 3, 1);
    Matrix b(options.transpose_b ? e.n : e.k, options.transpose_b ? e.k : e.n, 2, 2);
    Matrix c(e.m, e.n, 5, 3);
    Matrix bias(1, e.n, 0, 4);
    Matrix expected = c;
    for (int64_t row = 0; row < e.m; ++row)
        for (int64_t column = 0; column < e.n; ++column) {
            float sum = 0.0f;
            for (int64_t i = 0; i < e.k; ++i)
                sum += (options.transpose_a ? a.at(i, row) : a.at(row, i)) *
                       (options.transpose_b ? b.at(column, i) : b.at(i, column));
            float& out = expected.values[static_cast<size_t>(row * c.strides[0] + column)];
            out = (options.accumulate ? out : 0.0f) + sum + (with_bias ? bias.at(0, column) : 0);
        }
    const ConstView bias_view =
        with_bias ? ConstView(bias.values.data(), DType::f32, Shape({e.n})) : ConstView();
    check_matmul(c.view(), a.view(), b.view(), bias_view, options);
    MatmulProblem problem =
        plan_matmul(c.view(), a.view(), b.view(), bias_view, options, {}).problem;
    change(problem);
    execute(problem, b.values.data(), a.values.data(), bias.values.data(), c.values.data());
    return c.values == expected.values;
}

TEST(MatmulProblem, TheColumnMajorProductIsTheRowMajorOne) {
    const auto as_planned = [](MatmulProblem&) {};
    for (const Extents& e : {Extents{1, 1, 1}, {1, 5, 3}, {7, 1, 4}, {4, 6, 1}, {5, 3, 8}})
        for (const bool transpose_a : {false, true})
            for (const bool transpose_b : {false, true})
                for (const int extra : {0, 1, 2}) {
                    const Matmul options{transpose_a, transpose_b, extra == 2};
                    EXPECT_TRUE(gives_the_product(e, options, extra == 1, as_planned))
                        << e.m << "x" << e.n << "x" << e.k << " " << transpose_a << transpose_b
                        << " " << extra;
                }
}

TEST(MatmulProblem, AnotherReadingOfTheOperandsGivesAnotherProduct) {
    const Extents square{4, 4, 4};
    EXPECT_FALSE(gives_the_product(square, {}, false,
                                   [](MatmulProblem& p) { p.transpose_a = !p.transpose_a; }));
    EXPECT_FALSE(gives_the_product(square, {}, false,
                                   [](MatmulProblem& p) { p.transpose_b = !p.transpose_b; }));
    EXPECT_FALSE(gives_the_product(square, {}, false, [](MatmulProblem& p) { p.lda = 4; }));
    EXPECT_FALSE(gives_the_product(square, {}, true, [](MatmulProblem& p) { p.has_bias = false; }));
    EXPECT_FALSE(gives_the_product(square, {.accumulate = true}, false,
                                   [](MatmulProblem& p) { p.accumulates = false; }));
}

/// Views of rank 2 on made-up addresses: nothing reads them.
View at(uintptr_t address, DType dtype, const Shape& shape) {
    return {reinterpret_cast<void*>(address), dtype, shape};
}

TEST(MatmulProblem, AccumulationIsTheLibrarysUnlessBitsArePromised) {
    const View c = at(0x1000, DType::f32, {3, 5}), a = at(0x2000, DType::bf16, {3, 8}),
               b = at(0x3000, DType::bf16, {8, 5});
    const MatmulPlan fast = plan_matmul(c, a, b, {}, {.accumulate = true}, {});
    EXPECT_FALSE(fast.is_finished_apart);
    EXPECT_TRUE(fast.problem.accumulates);
    EXPECT_EQ(fast.problem.ldd, 5);
    const MatmulPlan exact = plan_matmul(c, a, b, {}, {.accumulate = true}, {.reproducible = true});
    EXPECT_TRUE(exact.is_finished_apart);
    EXPECT_FALSE(exact.problem.accumulates);
    const MatmulPlan first = plan_matmul(c, a, b, {}, {}, {.reproducible = true});
    EXPECT_FALSE(first.is_finished_apart);
    EXPECT_TRUE(exact.problem == first.problem)
        << "a lane's first product may have other bits than its next";
    const MatmulPlan refused =
        plan_matmul(c, a, b, {}, {.accumulate = true}, {.reproducible = true}, true);
    EXPECT_EQ(refused.problem.ldd, 8) << "rows of the scratch begin at multiples of 16 bytes";
}

TEST(MatmulProblem, TheBiasIsTheLibrarysWhereItTakesIt) {
    const View a = at(0x2000, DType::bf16, {3, 8}), b = at(0x3000, DType::bf16, {8, 5});
    const View full = at(0x1000, DType::f32, {3, 5}), half = at(0x1000, DType::bf16, {3, 5});
    const ConstView bias = at(0x4000, DType::f32, {5}), odd = at(0x4004, DType::f32, {5});
    EXPECT_FALSE(plan_matmul(full, a, b, bias, {}, {}).copies_bias);
    EXPECT_TRUE(plan_matmul(full, a, b, odd, {}, {}).copies_bias);
    EXPECT_TRUE(plan_matmul(half, a, b, bias, {}, {}).copies_bias);
    EXPECT_FALSE(plan_matmul(half, a, b, {}, {}, {}).copies_bias);
    const MatmulPlan apart = plan_matmul(half, a, b, bias, {}, {}, true);
    EXPECT_FALSE(apart.copies_bias || apart.problem.has_bias);
    EXPECT_EQ(apart.problem.d, Element::f32);
    const View wide = at(0x2000, DType::f32, {3, 8}), other = at(0x3000, DType::f32, {8, 5});
    EXPECT_TRUE(plan_matmul(half, wide, other, bias, {}, {}).is_finished_apart);
}

/// Operands of h[3, 8] = gelu(a b + bias), as the library takes them but for what a test changes.
struct GeluOperands {
    View h = at(0x1000, DType::bf16, {3, 8}), pre = at(0x5000, DType::bf16, {3, 8});
    View a = at(0x2000, DType::bf16, {3, 16}), b = at(0x3000, DType::bf16, {16, 8});
    kernels::Gelu form = kernels::Gelu::tanh;

    std::optional<MatmulPlan> forward(const StreamOptions& stream) const {
        return plan_matmul_gelu(h, pre, a, b, at(0x4000, DType::f32, {8}), form, {}, stream);
    }
    std::optional<MatmulPlan> backward(const StreamOptions& stream) const {
        return plan_matmul_gelu_backward(h, a, b, pre, form, {}, stream);
    }
};

TEST(MatmulProblem, TheLibrarysGeluStandsBehindAProductInBf16) {
    const GeluOperands o;
    const auto forward = o.forward({}), backward = o.backward({});
    ASSERT_TRUE(forward && backward);
    EXPECT_EQ(forward->problem.gelu, GeluEnd::forward);
    EXPECT_TRUE(forward->problem.has_bias && forward->copies_bias);
    EXPECT_EQ(forward->problem.ld_aux, 8);
    EXPECT_EQ(forward->problem.alignment_aux, 256);
    EXPECT_EQ(backward->problem.gelu, GeluEnd::backward);
    EXPECT_FALSE(backward->problem.has_bias);
    EXPECT_EQ(backward->problem.ld_aux, 8);
}

TEST(MatmulProblem, WhereBitsArePromisedGeluIsTakenOfTheRoundedValues) {
    EXPECT_FALSE(GeluOperands().forward({.reproducible = true}));
    const auto backward = GeluOperands().backward({.reproducible = true});
    ASSERT_TRUE(backward);
    EXPECT_TRUE(backward->problem.is_reproducible);
    EXPECT_EQ(backward->problem.alignment_aux, 16);
}

TEST(MatmulProblem, OtherGelusAreKernelsOfTheirOwn) {
    const auto refused = [](const std::function<void(GeluOperands&)>& change) {
        GeluOperands o;
        change(o);
        return !o.forward({}) && !o.backward({});
    };
    EXPECT_FALSE(refused([](GeluOperands&) {}));
    EXPECT_TRUE(refused([](GeluOperands& o) { o.form = kernels::Gelu::erf; }));
    EXPECT_TRUE(refused([](GeluOperands& o) { o.pre = at(0x5002, DType::bf16, {3, 8}); }));
    EXPECT_TRUE(refused([](GeluOperands& o) { o.pre = at(0x5000, DType::f32, {3, 8}); }));
    EXPECT_TRUE(refused([](GeluOperands& o) { o.pre.strides[0] = 9; }));
    EXPECT_TRUE(refused([](GeluOperands& o) {
        o.h = at(0x1000, DType::f32, {3, 8});
        o.pre = at(0x5000, DType::f32, {3, 8});
    }));
    EXPECT_TRUE(refused([](GeluOperands& o) {
        o.a = at(0x2000, DType::bf16, {3, 0});
        o.b = at(0x3000, DType::bf16, {0, 8});
    }));
}

TEST(MatmulProblem, AlignmentIsThatOfTheAddressUpToTheWidestThatCounts) {
    const View c = at(0x1004, DType::f32, {3, 5}), a = at(0x2040, DType::f32, {3, 8}),
               b = at(0x3000, DType::f32, {8, 5});
    const MatmulProblem fast = plan_matmul(c, a, b, {}, {}, {.tf32 = true}).problem;
    EXPECT_EQ(fast.alignment_a, 256);
    EXPECT_EQ(fast.alignment_b, 64);
    EXPECT_EQ(fast.alignment_d, 4);
    EXPECT_TRUE(fast.tf32);
    const MatmulProblem exact = plan_matmul(c, a, b, {}, {}, {.reproducible = true}).problem;
    EXPECT_EQ(exact.alignment_a, 16);
    EXPECT_EQ(exact.alignment_b, 16);
    EXPECT_EQ(exact.alignment_d, 4);
    EXPECT_FALSE(exact.tf32);
}

TEST(MatmulProblem, EightBitOperandsHaveOneLayout) {
    const View c = at(0x1000, DType::bf16, {3, 32}), a = at(0x2000, DType::u8, {3, 16}),
               b = at(0x3000, DType::u8, {32, 16});
    const kernels::Fp8Matmul options{.a = kernels::Fp8::e5m2, .fast_sums = true};
    const MatmulPlan plan = plan_fp8_matmul(c, a, b, {}, options, {});
    const MatmulProblem& p = plan.problem;
    EXPECT_TRUE(p.transpose_a && !p.transpose_b && p.has_scales() && p.fast_sums);
    EXPECT_EQ(p.a, Element::e4m3) << "the library's A is b";
    EXPECT_EQ(p.b, Element::e5m2);
    EXPECT_EQ(p.d, Element::bf16);
    EXPECT_EQ(p.m, 32);
    EXPECT_EQ(p.n, 3);
    EXPECT_EQ(p.k, 16);
    EXPECT_EQ(p.lda, 16);
    EXPECT_EQ(p.ldb, 16);
    EXPECT_EQ(p.ldd, 32);
    EXPECT_FALSE(plan.is_finished_apart || plan.copies_bias);
    const MatmulPlan biased = plan_fp8_matmul(c, a, b, at(0x4000, DType::f32, {32}), options, {});
    EXPECT_TRUE(biased.problem.has_bias && biased.copies_bias);
    EXPECT_TRUE(plan_fp8_matmul(c, a, b, {}, {.accumulate = true}, {.reproducible = true})
                    .is_finished_apart);
}

TEST(MatmulProblem, TheStrideOfASingleRowSaysNothing) {
    View row = at(0x1000, DType::f32, {1, 5});
    row.strides[0] = 1;
    EXPECT_EQ(leading_dimension(row), 5);
    View rows = at(0x1000, DType::f32, {2, 5});
    rows.strides[0] = 4;
    EXPECT_THROW(leading_dimension(rows), Error);
    rows.strides[0] = 7;
    EXPECT_EQ(leading_dimension(rows), 7);
}

TEST(MatmulProblem, EveryPartIsInTheKey) {
    using Change = std::function<void(MatmulProblem&)>;
    const std::vector<Change> changes = {
        [](auto&) {},
        [](auto& p) { p.m = 2; },
        [](auto& p) { p.n = 2; },
        [](auto& p) { p.k = 2; },
        [](auto& p) { p.transpose_a = true; },
        [](auto& p) { p.transpose_b = true; },
        [](auto& p) { p.lda = 2; },
        [](auto& p) { p.ldb = 2; },
        [](auto& p) { p.ldd = 2; },
        [](auto& p) { p.a = Element::e5m2; },
        [](auto& p) { p.b = Element::bf16; },
        [](auto& p) { p.d = Element::bf16; },
        [](auto& p) { p.has_bias = true; },
        [](auto& p) { p.has_bias_grad = true; },
        [](auto& p) { p.accumulates = true; },
        [](auto& p) { p.tf32 = true; },
        [](auto& p) { p.fast_sums = true; },
        [](auto& p) { p.is_reproducible = true; },
        [](auto& p) { p.alignment_a = 2; },
        [](auto& p) { p.alignment_b = 2; },
        [](auto& p) { p.alignment_d = 2; },
        [](auto& p) { p.gelu = GeluEnd::forward; },
        [](auto& p) { p.gelu = GeluEnd::backward; },
        [](auto& p) {
            p.gelu = GeluEnd::forward;
            p.ld_aux = 2;
        },
        [](auto& p) {
            p.gelu = GeluEnd::forward;
            p.alignment_aux = 2;
        },
    };
    std::set<std::string> texts;
    std::set<size_t> hashes;
    std::vector<MatmulProblem> problems;
    for (const Change& change : changes) {
        MatmulProblem problem;
        change(problem);
        texts.insert(text_of(problem));
        hashes.insert(MatmulProblemHash()(problem));
        EXPECT_EQ(std::count(problems.begin(), problems.end(), problem), 0);
        problems.push_back(problem);
        EXPECT_EQ(text_of(problem).find_first_of("\t\n"), std::string::npos);
    }
    EXPECT_EQ(texts.size(), changes.size());
    EXPECT_EQ(hashes.size(), changes.size());
}

TEST(MatmulProblem, OperandsThatDoNotFitAreRefused) {
    const View c = at(0x1000, DType::f32, {3, 5}), a = at(0x2000, DType::f32, {3, 8}),
               b = at(0x3000, DType::f32, {8, 5});
    EXPECT_NO_THROW(check_matmul(c, a, b, {}, {}));
    EXPECT_THROW(check_matmul(c, a, b, {}, {.transpose_a = true}), Error);
    EXPECT_THROW(check_matmul(c, a, b, {}, {.transpose_b = true}), Error);
    EXPECT_THROW(check_matmul(c, a, at(0x3000, DType::bf16, {8, 5}), {}, {}), Error);
    EXPECT_THROW(check_matmul(c, a, b, at(0x4000, DType::f32, {4}), {}), Error);
    EXPECT_THROW(check_matmul(c, a, b, at(0x4000, DType::f32, {5}), {.accumulate = true}), Error);
    EXPECT_THROW(check_matmul(at(0x1000, DType::bf16, {3, 5}), a, b, {}, {}), Error);
    EXPECT_THROW(check_matmul(at(0x1000, DType::f32, {15}), a, b, {}, {}), Error);
    EXPECT_THROW(check_matmul(at(0x1000, DType::i32, {3, 5}), a, b, {}, {}), Error);
}

}  // namespace
}  // namespace plinth::test
