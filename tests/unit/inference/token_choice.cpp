// SPDX-License-Identifier: Apache-2.0
#include "core/inference/token_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::core::inference {
namespace {

constexpr int draws = 20'000;

const std::vector<float> logits = {0.3f, -1.0f, 2.0f, 1.1f, -0.4f, 2.0f, -3.0f, 0.9f};

/// softmax(logits / temperature), straight from the formula.
std::vector<double> softmax(const std::vector<float>& values, double temperature) {
    std::vector<double> result;
    double sum = 0.0;
    for (float value : values)
        sum += result.emplace_back(std::exp(static_cast<double>(value) / temperature));
    for (double& p : result)
        p /= sum;
    return result;
}

std::vector<int> histogram(const TokenChoice& choice) {
    std::vector<int> counts(logits.size(), 0);
    for (uint64_t position = 0; position < draws; ++position)
        ++counts[static_cast<size_t>(choose_token(logits, choice, 0, position))];
    return counts;
}

double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
    double sum = 0.0;
    for (size_t i = 0; i < counts.size(); ++i) {
        const double expected = probabilities[i] * draws;
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    return sum;
}

std::set<int32_t> drawn(const TokenChoice& choice) {
    std::set<int32_t> tokens;
    const std::vector<int> counts = histogram(choice);
    for (size_t i = 0; i < counts.size(); ++i)
        if (counts[i] > 0) tokens.insert(static_cast<int32_t>(i));
    return tokens;
}

// 24.32 is the 0.999 quantile of chi-square with 7 degrees of freedom.
TEST(TokenChoice, DrawsFollowTheSoftmax) {
    for (double temperature : {0.7, 1.0, 2.5}) {
        const std::vector<int> counts = histogram({.temperature = temperature, .seed = 5});
        EXPECT_LT(chi_square(counts, softmax(logits, temperature)), 24.32) << temperature;
        // The mutant: a choice that leaves the temperature out.
        EXPECT_GT(chi_square(counts, softmax(logits, temperature * 1.2)), 24.32) << temperature;
    }
}

TEST(TokenChoice, TemperatureZeroTakesTheLikeliestAndTheLowerIdOfTwo) {
    for (uint64_t seed = 0; seed < 20; ++seed)
        EXPECT_EQ(choose_token(logits, {.temperature = 0.0, .seed = seed}, seed, seed), 2);
}

TEST(TokenChoice, TopKDrawsFromExactlyTheKLikeliest) {
    EXPECT_EQ(drawn({.top_k = 1}), (std::set<int32_t>{2}));  // a tie with 5: the lower id stays
    EXPECT_EQ(drawn({.top_k = 2}), (std::set<int32_t>{2, 5}));
    EXPECT_EQ(drawn({.top_k = 4}), (std::set<int32_t>{2, 3, 5, 7}));
    EXPECT_EQ(drawn({.top_k = 100}).size(), logits.size());
    EXPECT_EQ(drawn({.top_k = 0}).size(), logits.size());
}

// Probabilities, likeliest first: 2 and 5 have 0.326 each, 3 has 0.132, 7 has 0.108, 0 has 0.060.
TEST(TokenChoice, TopPDrawsFromTheSmallestNucleus) {
    const std::vector<double> p = softmax(logits, 1.0);
    ASSERT_NEAR(p[2], 0.3258, 1e-4);
    EXPECT_EQ(drawn({.top_p = 0.32}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({.top_p = 0.33}), (std::set<int32_t>{2, 5}));
    EXPECT_EQ(drawn({.top_p = 0.66}), (std::set<int32_t>{2, 3, 5}));
    EXPECT_EQ(drawn({.top_p = 0.80}), (std::set<int32_t>{2, 3, 5, 7}));
    EXPECT_EQ(drawn({.top_p = 1e-9}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({.top_p = 1.0}).size(), logits.size());
}

// Within the two likeliest each has a half, so 0.5 is reached by one of them.
TEST(TokenChoice, TopPIsAShareOfWhatTopKLeaves) {
    EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.5}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.51}), (std::set<int32_t>{2, 5}));
}

TEST(TokenChoice, WhatStaysKeepsItsProportions) {
    for (const TokenChoice& choice : {TokenChoice{.top_k = 4}, TokenChoice{.top_p = 0.8}}) {
        const std::vector<int> counts = histogram(choice);
        const std::vector<double> p = softmax(logits, 1.0);
        const double sum = p[2] + p[3] + p[5] + p[7];
        double chi = 0.0;
        for (size_t i : {2u, 3u, 5u, 7u}) {
            const double expected = p[i] / sum * draws;
            chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        }
        EXPECT_LT(chi, 16.27);  // 0.999 quantile, 3 degrees of freedom
    }
}

TEST(TokenChoice, IsAFunctionOfSeedSequenceAndPosition) {
    const auto row = [](uint64_t seed, uint64_t sequence, uint64_t first) {
        std::vector<int32_t> tokens;
        for (uint64_t position = first; position < first + 64; ++position)
            tokens.push_back(choose_token(logits, {.seed = seed}, sequence, position));
        return tokens;
    };
    EXPECT_EQ(row(1, 0, 0), row(1, 0, 0));
    EXPECT_NE(row(1, 0, 0), row(2, 0, 0));
    EXPECT_NE(row(1, 0, 0), row(1, 1, 0));
    EXPECT_NE(row(1, 0, 0), row(1, 0, 64));
}

TEST(TokenChoice, LogitsThatAreNotFiniteAreRefused) {
    std::vector<float> broken = logits;
    for (float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        broken[3] = value;
        EXPECT_THROW(choose_token(broken, {}, 0, 0), Error);
        EXPECT_THROW(choose_token(broken, {.temperature = 0.0}, 0, 0), Error);
    }
    EXPECT_THROW(choose_token({}, {}, 0, 0), Error);
}

// A vast spread of logits: everything but the top underflows, which is no error.
TEST(TokenChoice, ExtremeLogits) {
    const std::vector<float> steep = {-1e30f, 1e30f, 0.0f};
    for (double temperature : {1e-3, 1.0, 100.0})
        EXPECT_EQ(choose_token(steep, {.temperature = temperature}, 0, 3), 1);
}

}  // namespace
}  // namespace plinth::core::inference
