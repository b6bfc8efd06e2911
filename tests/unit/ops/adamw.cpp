// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <cmath>
#include <cstring>

#include "tests/support/op_fixture.h"

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
    const auto run_with = [&](int threads, int64_t cut) {
        Stream stream(threads);
        core::Tensor w = tensor(start, {n}), m = tensor(std::vector<float>(start.size()), {n}),
                     v = tensor(std::vector<float>(start.size()), {n});
        for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, n}})
            kernels::adamw(w.rows(begin, end).out(), m.rows(begin, end).out(),
                           v.rows(begin, end).out(), g.rows(begin, end).in(), options_at(1),
                           stream);
        return w.values<float>();
    };
    const auto whole = run_with(1, n);
    for (int threads = 1; threads <= 8; ++threads)
        for (int64_t cut : {int64_t{1}, int64_t{1024}, int64_t{33333}}) {
            const auto cut_up = run_with(threads, cut);
            EXPECT_EQ(0, std::memcmp(whole.data(), cut_up.data(), whole.size() * sizeof(float)))
                << threads << " threads, cut at " << cut;
        }
}

}  // namespace
}  // namespace plinth::test
