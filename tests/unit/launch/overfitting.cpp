// SPDX-License-Identifier: Apache-2.0
#include "launch/overfitting.h"

#include <gtest/gtest.h>

#include <vector>

namespace plinth::launch {
namespace {

struct Evaluation {
    double held_out;
    std::optional<double> training;
};

/// What the last of some evaluations warns of; all before it must warn of nothing.
std::string warning_of(const std::vector<Evaluation>& evaluations) {
    OverfittingWatch watch;
    std::string warning;
    for (const auto& [held_out, training] : evaluations) {
        EXPECT_EQ(warning, "") << "before " << held_out;
        warning = watch.add(held_out, training).value_or("");
    }
    return warning;
}

TEST(Overfitting, TrainingFallsWhileHeldOutRises) {
    EXPECT_EQ(warning_of({{3.0, 3.0}, {2.5, 2.4}, {2.75, 2.0}}),
              "overfitting: training loss fell from 2.4000 to 2.0000 while held-out loss rose from "
              "2.5000 to 2.7500 (best 2.5000)");
}

TEST(Overfitting, TheBestIsThatOfAllEvaluations) {
    // 2.6 to 2.7 with a training loss that rises too is no overfitting; the best stays 2.5.
    EXPECT_NE(warning_of({{2.5, 2.5}, {2.6, 2.6}, {2.7, 2.7}, {2.8, 2.4}}).find("(best 2.5000)"),
              std::string::npos);
}

TEST(Overfitting, NothingElseIsWarnedOf) {
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.4, 2.4}}), "") << "both fall";
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.6, 2.6}}), "") << "both rise";
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.4, 2.6}}), "") << "training rises, held out falls";
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.5, 2.4}}), "") << "held out stands still";
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.6, 2.5}}), "") << "training stands still";
}

TEST(Overfitting, TheFirstEvaluationAndTheFirstAfterAResumeHaveNothingToCompareWith) {
    EXPECT_EQ(warning_of({{9.0, 1.0}}), "");
    // A resume on the step of an evaluation makes it again, before any step was made.
    EXPECT_EQ(warning_of({{2.5, std::nullopt}, {2.6, 2.0}}), "");
    EXPECT_EQ(warning_of({{2.5, 2.5}, {2.6, std::nullopt}}), "");
    EXPECT_NE(warning_of({{2.5, std::nullopt}, {2.6, 2.0}, {2.7, 1.9}}), "");
}

}  // namespace
}  // namespace plinth::launch
