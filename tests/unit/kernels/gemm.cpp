// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "kernels/runtime/thread_pool.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using kernels::cpu::Operand;

/// Rows of `stride` elements, of which a product uses only the first.
template <typename T>
std::vector<T> matrix(int64_t rows, int64_t stride, int64_t salt) {
    std::vector<T> values;
    for (int64_t i = 0; i < rows * stride; ++i)
        values.push_back(T(static_cast<float>((i * 7919 + salt) % 255 - 127) / 64.0f));
    return values;
}

struct Case {
    int64_t m, n, k;
    bool a_transposed, b_transposed;
};

/// One block of k and several, a short last one, and rows so long that sgemm copies.
std::vector<Case> cases() {
    std::vector<Case> all;
    for (const bool a : {false, true})
        for (const bool b : {false, true})
            for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                          {5, 7, 384},
                                          {13, 3, 385},
                                          {33, 31, 1000},
                                          {1031, 5, 801}})
                all.push_back({m, n, k, a, b});
    return all;
}

/// Largest error of product(case, a, b, c) relative to sums in double.
template <typename T, typename C, typename Product>
double largest_error(const Case& c, Product product) {
    constexpr int64_t padding = 3;
    const int64_t a_stride = (c.a_transposed ? c.m : c.k) + padding;
    const int64_t b_stride = (c.b_transposed ? c.k : c.n) + padding, c_stride = c.n + padding;
    const auto a = matrix<T>(c.a_transposed ? c.k : c.m, a_stride, 1);
    const auto b = matrix<T>(c.b_transposed ? c.n : c.k, b_stride, 2);
    const C untouched(77.0f);
    std::vector<C> out(static_cast<size_t>(c.m * c_stride), untouched);
    product(Operand{a.data(), a_stride, c.a_transposed},
            Operand{b.data(), b_stride, c.b_transposed}, out.data(), c_stride);
    double worst = 0.0;
    const auto at = [](const auto& values, int64_t i) {
        return static_cast<double>(static_cast<float>(values[static_cast<size_t>(i)]));
    };
    for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.n; ++j) {
            double sum = 0.0, size = 1.0;
            for (int64_t p = 0; p < c.k; ++p) {
                const double term = at(a, c.a_transposed ? p * a_stride + i : i * a_stride + p) *
                                    at(b, c.b_transposed ? j * b_stride + p : p * b_stride + j);
                sum += term;
                size += std::abs(term);
            }
            worst = std::max(worst, std::abs(at(out, i * c_stride + j) - sum) / size);
        }
        for (int64_t j = c.n; j < c_stride; ++j)
            EXPECT_EQ(at(out, i * c_stride + j), 77.0) << "wrote past row " << i;
    }
    return worst;
}

std::string name_of_case(const Case& c) {
    return fmt::format("{}x{}x{}{}{}", c.m, c.n, c.k, c.a_transposed ? " a^T" : "",
                       c.b_transposed ? " b^T" : "");
}

TEST(Gemm, SgemmEqualsSumsInDouble) {
    for (const Case& c : cases())
        EXPECT_LT(
            (largest_error<float, float>(c,
                                         [&](Operand a, Operand b, float* out, int64_t stride) {
                                             kernels::cpu::sgemm(c.m, c.n, c.k, a, b, out, stride);
                                         })),
            1e-6)
            << name_of_case(c);
}

template <typename C>
double bf16_error(const Case& c, decltype(kernels::cpu::bf16_gemm)* product) {
    return largest_error<BFloat16, C>(c, [&](Operand a, Operand b, C* out, int64_t stride) {
        product(c.m, c.n, c.k, a, b, out, DTypeOf<C>::value, stride);
    });
}

void expect_sums_in_double(decltype(kernels::cpu::bf16_gemm)* product) {
    for (const Case& c : cases()) {
        EXPECT_LT(bf16_error<float>(c, product), 1e-6) << name_of_case(c);
        EXPECT_LT(bf16_error<BFloat16>(c, product), 5e-3) << name_of_case(c);
    }
}

TEST(Gemm, WidenedProductsEqualSumsInDouble) {
    expect_sums_in_double(&kernels::cpu::widened_gemm);
}

TEST(Gemm, TheLibrarysBf16ProductsEqualSumsInDouble) {
    if (!kernels::cpu::library_has_bf16())
        GTEST_SKIP() << "oneDNN has bf16 products on CPUs with AVX-512 only";
    expect_sums_in_double(&kernels::cpu::library_gemm);
}

TEST(Gemm, TheChosenBf16ProductsEqualSumsInDouble) {
    expect_sums_in_double(&kernels::cpu::bf16_gemm);
}

TEST(Gemm, TheLibrarysBf16ProductsOfManyThreadsHaveTheBitsOfOne) {
    if (!kernels::cpu::library_has_bf16())
        GTEST_SKIP() << "oneDNN has bf16 products on CPUs with AVX-512 only";
    constexpr int64_t m = 61, n = 83, k = 801, products = 64;
    const auto a = matrix<BFloat16>(k, m, 1), b = matrix<BFloat16>(k, n, 2);
    const auto multiply = [&](float* out) {
        kernels::cpu::library_gemm(m, n, k, {a.data(), m, true}, {b.data(), n, false}, out,
                                   DType::f32, n);
    };
    std::vector<float> expected(m * n);
    multiply(expected.data());
    std::vector<std::vector<float>> found(products, std::vector<float>(m * n));
    ThreadPool pool(8);
    pool.run(products, [&](int64_t i) { multiply(found[static_cast<size_t>(i)].data()); });
    for (const auto& each : found)
        EXPECT_EQ(each, expected);
}

TEST(Gemm, ThreadsThatAskForANewShapeAtOnceGetTheSameBits) {
    if (!kernels::cpu::library_has_bf16())
        GTEST_SKIP() << "oneDNN has bf16 products on CPUs with AVX-512 only";
    constexpr int64_t m = 37, k = 53;  // no other test's: the library makes each product here
    constexpr int threads = 4;
    const auto a = matrix<BFloat16>(m, k, 1);
    for (int64_t n = 20; n < 40; ++n) {
        const auto b = matrix<BFloat16>(k, n, 2);
        std::vector<std::vector<float>> products(threads,
                                                 std::vector<float>(static_cast<size_t>(m * n)));
        std::latch all_are_here(threads);
        std::vector<std::jthread> running;
        for (std::vector<float>& product : products)
            running.emplace_back([&] {
                all_are_here.arrive_and_wait();
                kernels::cpu::library_gemm(m, n, k, {a.data(), k, false}, {b.data(), n, false},
                                           product.data(), DType::f32, n);
            });
        running.clear();
        for (const std::vector<float>& product : products)
            EXPECT_EQ(product, products[0]) << n << " columns";
    }
}

TEST(Gemm, MemoryThatIsNotThereIsAnErrorAndNoNullPointer) {
    const kernels::cpu::PageMemory some = kernels::cpu::page_memory(5000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(some.get()) % 4096, 0u);
    std::memset(some.get(), 1, 5000);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's allocator ends the process instead of refusing";
#endif
    expect_error(
        ErrorKind::io, [] { kernels::cpu::page_memory(SIZE_MAX / 4); }, "out of memory",
        std::to_string(SIZE_MAX / 4));
}

}  // namespace
}  // namespace plinth::test
