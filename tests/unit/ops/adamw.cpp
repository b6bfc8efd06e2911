// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class AdamWTest : public OpTest {};

/// The published update, in double.
struct NaiveAdamW {
    std::vector<double> w, m, v;
    void step(const std::vector<float>& gradient, const kernels::AdamW& o) {
        for (size_t i = 0; i < w.size(); ++i) {
            const double g = o.gradient_scale * static_cast<double>(gradient[i]);
            m[i] = o.beta1 * m[i] + (1.0 - o.beta1) * g;
            v[i] = o.beta2 * v[i] + (1.0 - o.beta2) * g * g;
            const double m_hat = m[i] / o.bias_correction1, v_hat = v[i] / o.bias_correction2;
            w[i] -= o.learning_rate * o.weight_decay * w[i];
            w[i] -= o.learning_rate * m_hat / (std::sqrt(v_hat) + o.eps);
        }
    }
};

kernels::AdamW options_at(int t) {
    return {.learning_rate = 1e-2,
            .beta1 = 0.9,
            .beta2 = 0.95,
            .eps = 1e-8,
            .weight_decay = 0.1,
            .bias_correction1 = 1.0 - std::pow(0.9, t),
            .bias_correction2 = 1.0 - std::pow(0.95, t),
            .gradient_scale = 0.25};
}

TEST_F(AdamWTest, TwentyStepsEqualTheFormulaInDouble) {
    for (int64_t n : {1, 31, 40009}) {
        const auto start = random_values(n, "w");
        core::Tensor w = tensor(start, {n}), m = tensor(std::vector<float>(start.size()), {n}),
                     v = tensor(std::vector<float>(start.size()), {n});
        NaiveAdamW naive{{start.begin(), start.end()},
                         std::vector<double>(start.size()),
                         std::vector<double>(start.size())};
        for (int t = 1; t <= 20; ++t) {
            const auto gradient = random_values(n, "gradient " + std::to_string(t));
            const core::Tensor g = tensor(gradient, {n});
            kernels::adamw(w.out(), m.out(), v.out(), g.in(), options_at(t), stream_);
            naive.step(gradient, options_at(t));
        }
        expect_close(to_doubles(w), naive.w, 2e-6, "weights");
        expect_close(to_doubles(m), naive.m, 1e-6, "first moments");
        expect_close(to_doubles(v), naive.v, 1e-6, "second moments");
    }
}

TEST_F(AdamWTest, ASkippedStepChangesNothing) {
    core::Tensor w = tensor({1.0f, 2.0f}, {2}), m = tensor({0.5f, 0.5f}, {2}),
                 v = tensor({0.5f, 0.5f}, {2});
    const core::Tensor g = tensor({std::nanf(""), 1.0f}, {2});
    kernels::AdamW options = options_at(3);
    options.skip = true;
    kernels::adamw(w.out(), m.out(), v.out(), g.in(), options, stream_);
    EXPECT_EQ(w.values<float>(), (std::vector<float>{1.0f, 2.0f}));
    EXPECT_EQ(m.values<float>(), (std::vector<float>{0.5f, 0.5f}));
    EXPECT_EQ(v.values<float>(), (std::vector<float>{0.5f, 0.5f}));
}

TEST_F(AdamWTest, AnyCutAndAnyThreadsGiveTheSameBits) {
    const int64_t n = 40009;
    const auto start = random_values(n, "w");
    const core::Tensor g = tensor(random_values(n, "g"), {n});
    /// Elements [0, end) and then [begin, n).
    const auto updated = [&](Stream& stream, int64_t end, int64_t begin) {
        core::Tensor w = tensor(start, {n}), m = tensor(std::vector<float>(start.size()), {n}),
                     v = tensor(std::vector<float>(start.size()), {n});
        for (const auto& [from, to] : {std::pair{int64_t{0}, end}, std::pair{begin, n}})
            kernels::adamw(w.rows(from, to).out(), m.rows(from, to).out(), v.rows(from, to).out(),
                           g.rows(from, to).in(), options_at(1), stream);
        std::vector<float> all;
        for (const core::Tensor& t : {w, m, v}) {
            const auto values = t.values<float>();
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    };
    Stream one(1);
    const auto whole = updated(one, n, n);
    for (const int64_t cut : {1, 1024, 33333}) {
        EXPECT_EQ(updated(one, cut, cut), whole) << "cut at " << cut;
        EXPECT_NE(updated(one, cut, cut - 1), whole) << "the mutant updates one element twice";
        expect_threads_do_not_change_bits([&](Stream& stream) { return updated(stream, cut, cut); },
                                          fmt::format("cut at {}", cut));
    }
}

// Moments in bf16.

/// The bf16 numbers at and next above a size, by exponent and mantissa: no bits are moved.
std::pair<double, double> neighbours(double size) {
    if (size == 0.0) return {0.0, std::ldexp(1.0, -133)};
    int exponent = 0;
    std::frexp(size, &exponent);
    const double step = std::ldexp(1.0, std::max(exponent, -125) - 8);
    const double below = std::floor(size / step) * step;
    return {below, below + step};
}

/// Stochastic rounding in doubles, which hold all of it exactly: away from zero if so many of the
/// 65,536 random numbers or fewer are above.
double rounded(float value, uint32_t random) {
    const auto size = static_cast<double>(std::abs(value));
    const auto [below, above] = neighbours(size);
    const double share = (size - below) / (above - below);
    const double result = share * 65536.0 + random >= 65536.0 ? above : below;
    return std::copysign(result, static_cast<double>(value));
}

double rounded_by_program(float value, uint32_t random) {
    return static_cast<double>(static_cast<float>(round_stochastically(value, random)));
}

const std::vector<float> values_to_round{
    1.0f,   1.00390625f, 1.0039063f,    -1.7f,    3.14159f, 0.1f,
    -1e-8f, 6.5e-20f,    65535.99f,     -255.99f, 1.1e-38f, 1e-39f,
    1e-42f, 1e-45f,      -1.17549e-38f, 3.38e38f, 0.0f,     0.75f};

TEST(StochasticRounding, IsThatOfTheDefinition) {
    for (const float value : values_to_round)
        for (uint32_t random = 0; random < 65536; random += 251)
            EXPECT_EQ(rounded_by_program(value, random), rounded(value, random))
                << value << " by " << random;
}

/// Exactly: the mean over all random numbers is the value, where 16 more bits hold it.
TEST(StochasticRounding, HasTheValueAsItsMean) {
    for (const float value : values_to_round) {
        double sum = 0.0, of_nearest = 0.0;
        for (uint32_t random = 0; random < 65536; ++random) {
            sum += rounded_by_program(value, random);
            of_nearest += static_cast<double>(static_cast<float>(BFloat16(value)));
        }
        EXPECT_EQ(sum / 65536.0, static_cast<double>(value));
        const auto [below, above] = neighbours(static_cast<double>(std::abs(value)));
        if (below != static_cast<double>(std::abs(value))) {  // the mutant
            EXPECT_NE(of_nearest / 65536.0, static_cast<double>(value));
        }
    }
}

TEST(StochasticRounding, WhatIsFiniteStaysSoAndWhatIsNotToo) {
    const float largest = std::bit_cast<float>(0x7f7f0000u), infinite = HUGE_VALF;
    for (const uint32_t random : {0u, 1u, 65535u}) {
        for (const float value :
             {largest, std::nextafter(largest, infinite), std::numeric_limits<float>::max()}) {
            EXPECT_EQ(rounded_by_program(value, random), static_cast<double>(largest));
            EXPECT_EQ(rounded_by_program(-value, random), -static_cast<double>(largest));
        }
        EXPECT_EQ(rounded_by_program(-infinite, random), -HUGE_VAL);
        for (const uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u})
            EXPECT_TRUE(std::isnan(rounded_by_program(std::bit_cast<float>(nan), random)));
        EXPECT_TRUE(std::signbit(rounded_by_program(-0.0f, random)));
    }
}

/// What a wrong program might do in place of the rule.
enum class Wrong { nothing, nearest, halves_swapped, next_element, one_word_a_quadruple, old_key };

/// The update in fp32 as the formula stands, rounded by the definition.
struct RoundedAdamW {
    std::vector<float> w, m, v;
    void step(const std::vector<float>& gradient, const kernels::AdamW& o, Wrong wrong) {
        const kernels::AdamWConstants c(o);
        for (size_t i = 0; i < w.size(); ++i) {
            const float g = c.scale * gradient[i];
            const float mean = c.beta1 * m[i] + c.one_minus_beta1 * g;
            const float square = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
            w[i] =
                w[i] * c.keep - c.step_size * mean / (std::sqrt(square) * c.inverse_root2 + c.eps);
            const uint64_t e = i + (wrong == Wrong::next_element ? 1 : 0);
            const uint32_t word =
                (wrong == Wrong::old_key ? RandomKey(5, "moments.w", 1) : o.rounding.get())
                    .words(e / 4)[wrong == Wrong::one_word_a_quadruple ? 0 : e % 4];
            uint32_t low = word % 65536, high = word / 65536;
            if (wrong == Wrong::halves_swapped) std::swap(low, high);
            if (wrong == Wrong::nearest) {
                m[i] = static_cast<float>(BFloat16(mean));
                v[i] = static_cast<float>(BFloat16(square));
            } else {
                m[i] = static_cast<float>(rounded(mean, low));
                v[i] = static_cast<float>(rounded(square, high));
            }
        }
    }
};

kernels::AdamW rounding_options_at(int t) {
    kernels::AdamW options = options_at(t);
    options.rounding = StepKey(5, "moments.w", t);
    return options;
}

std::vector<float> floats(const core::Tensor& tensor) {
    const std::vector<double> values = to_doubles(tensor);
    return {values.begin(), values.end()};
}

/// Bit for bit over ten steps; the first thing that differs, or nothing.
std::string first_difference(const std::vector<std::vector<float>>& found, const RoundedAdamW& by) {
    const std::vector<float>* expected[] = {&by.w, &by.m, &by.v};
    const char* names[] = {"weights", "first moments", "second moments"};
    for (size_t k = 0; k < 3; ++k)
        if (std::memcmp(found[k].data(), expected[k]->data(), found[k].size() * sizeof(float)) != 0)
            return names[k];
    return "";
}

TEST_F(AdamWTest, MomentsInBfloat16AreRoundedByTheRule) {
    for (const int64_t n : {1, 5, 257, 40009}) {
        const auto start = random_values(n, "w");
        const std::vector<float> zeros(start.size());
        core::Tensor w = tensor(start, {n}), m = tensor(zeros, {n}, DType::bf16),
                     v = tensor(zeros, {n}, DType::bf16);
        std::map<Wrong, RoundedAdamW> oracles;
        for (const Wrong wrong : {Wrong::nothing, Wrong::nearest, Wrong::halves_swapped,
                                  Wrong::next_element, Wrong::one_word_a_quadruple, Wrong::old_key})
            oracles[wrong] = {start, zeros, zeros};
        for (int t = 1; t <= 10; ++t) {
            const auto gradient = random_values(n, "gradient " + std::to_string(t));
            kernels::adamw(w.out(), m.out(), v.out(), tensor(gradient, {n}).in(),
                           rounding_options_at(t), stream_);
            for (auto& [wrong, oracle] : oracles)
                oracle.step(gradient, rounding_options_at(t), wrong);
        }
        for (const auto& [wrong, oracle] : oracles) {
            const std::string difference =
                first_difference({floats(w), floats(m), floats(v)}, oracle);
            if (wrong == Wrong::nothing) {
                EXPECT_EQ(difference, "") << n;
            } else if (n > 5) {  // a few elements may round alike by chance
                EXPECT_NE(difference, "") << "mutant " << static_cast<int>(wrong);
            }
        }
    }
}

/// With beta2 = 0.999 a second moment falls by a thousandth of itself, less than half a step of
/// bf16: to the nearest it never would.
TEST_F(AdamWTest, RoundedSecondMomentsFallAsTheFormulaSays) {
    constexpr int64_t n = 8192;
    const auto all = [this](float value, DType dtype) {
        return tensor(std::vector<float>(static_cast<size_t>(n), value), {n}, dtype);
    };
    core::Tensor w = all(0.0f, DType::f32), m = all(0.0f, DType::bf16), v = all(1.0f, DType::bf16);
    const core::Tensor g = all(0.1f, DType::f32);
    kernels::AdamW options = rounding_options_at(1);
    options.beta2 = 0.999;
    options.gradient_scale = 1.0;
    double expected = 1.0;
    float nearest = 1.0f;
    for (int t = 1; t <= 1500; ++t) {
        options.rounding = StepKey(5, "moments.w", t);
        kernels::adamw(w.out(), m.out(), v.out(), g.in(), options, stream_);
        expected = 0.999 * expected + 0.001 * 0.01;
        nearest = static_cast<float>(BFloat16(0.999f * nearest + 0.001f * 0.01f));
    }
    double mean = 0.0, mean_square = 0.0;
    for (const double value : to_doubles(v)) {
        mean += value / static_cast<double>(n);
        mean_square += value * value / static_cast<double>(n);
    }
    const double deviation = std::sqrt(mean_square - mean * mean);
    // Each element strays by a few per cent, their mean by a root of their number less.
    EXPECT_LT(deviation, 0.1 * expected);
    EXPECT_NEAR(mean, expected, 5 * deviation / std::sqrt(static_cast<double>(n)));
    EXPECT_EQ(nearest, 1.0f) << "the mutant stands still";
}

/// A part of a parameter: its rows, of some columns, from an element on.
TEST_F(AdamWTest, AnyPartOfAParameterIsRoundedAsInTheWhole) {
    const int64_t rows = 37, columns = 301, n = rows * columns;
    const auto start = random_values(n, "w"), gradient = random_values(n, "g"),
               means = rounded_to_bf16(random_values(n, "m"));
    auto squares = rounded_to_bf16(random_values(n, "v"));
    for (float& square : squares)
        square = std::abs(square);
    const auto updated = [&](const std::vector<int64_t>& part, const ElementRows& elements,
                             int threads) {
        const auto of = [&](const std::vector<float>& all, DType dtype = DType::f32) {
            std::vector<float> some;
            for (const int64_t e : part)
                some.push_back(all[static_cast<size_t>(e)]);
            return tensor(some, {static_cast<int64_t>(some.size())}, dtype);
        };
        core::Tensor w = of(start), m = of(means, DType::bf16), v = of(squares, DType::bf16);
        kernels::AdamW options = rounding_options_at(3);
        options.elements = elements;
        Stream stream(threads);
        kernels::adamw(w.out(), m.out(), v.out(), of(gradient).in(), options, stream);
        std::vector<std::vector<float>> state{floats(w), floats(m), floats(v)};
        return state;
    };
    std::vector<int64_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), int64_t{0});
    const auto whole = updated(all, {}, 1);
    const auto is_as_in_whole = [&](const std::vector<int64_t>& part, const ElementRows& elements,
                                    int threads) {
        const auto found = updated(part, elements, threads);
        for (size_t k = 0; k < 3; ++k)
            for (size_t i = 0; i < part.size(); ++i)
                if (found[k][i] != whole[k][static_cast<size_t>(part[i])]) return false;
        return true;
    };
    for (const int64_t begin : {0, 1, 4, 1024, 5003})
        for (const int threads : {1, 3}) {
            const std::vector<int64_t> rest(all.begin() + begin, all.end());
            EXPECT_TRUE(is_as_in_whole(rest, {.first = begin}, threads)) << begin;
        }
    const std::vector<std::pair<int64_t, int64_t>> boxes{{0, 151}, {151, 150}, {8, 64}, {300, 1}};
    for (const auto& [first_column, width] : boxes)
        for (const int64_t skipped : {int64_t{0}, width - 1}) {
            std::vector<int64_t> part;
            for (int64_t row = 2; row < rows; ++row)
                for (int64_t column = 0; column < width; ++column)
                    part.push_back(row * columns + first_column + column);
            part.erase(part.begin(), part.begin() + skipped);
            const ElementRows elements{.first = 2 * columns + first_column,
                                       .skipped = skipped,
                                       .width = width,
                                       .stride = columns};
            EXPECT_TRUE(is_as_in_whole(part, elements, 2)) << first_column << ", " << width;
            ElementRows mutant = elements;
            mutant.stride = width;  // numbers of the part, not of the parameter
            EXPECT_FALSE(is_as_in_whole(part, mutant, 2)) << first_column << ", " << width;
        }
}

TEST_F(AdamWTest, MomentsOfTwoTypesAreRefused) {
    core::Tensor w = tensor({1.0f}, {1}), m = tensor({0.0f}, {1}, DType::bf16),
                 v = tensor({0.0f}, {1});
    EXPECT_THROW(kernels::adamw(w.out(), m.out(), v.out(), w.in(), options_at(1), stream_), Error);
    EXPECT_THROW(kernels::adamw(w.out(), v.out(), m.out(), w.in(), options_at(1), stream_), Error);
}

}  // namespace
}  // namespace plinth::test
