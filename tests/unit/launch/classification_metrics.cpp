// SPDX-License-Identifier: Apache-2.0
#include "launch/classification_metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::launch {
namespace {

// Worked out by hand. Truth 0 0 0 0 1 1 1 2 2 2, predicted 0 0 0 1 1 1 2 0 2 1:
//   class 0: 4 examples, 4 predicted, 3 right -> precision 3/4, recall 3/4, F1 3/4
//   class 1: 3 examples, 4 predicted, 2 right -> precision 1/2, recall 2/3, F1 4/7
//   class 2: 3 examples, 2 predicted, 1 right -> precision 1/2, recall 1/3, F1 2/5
const std::vector<int32_t> truth = {0, 0, 0, 0, 1, 1, 1, 2, 2, 2};
const std::vector<int32_t> predicted = {0, 0, 0, 1, 1, 1, 2, 0, 2, 1};

TEST(ClassificationMetrics, AreThoseOfPencilAndPaper) {
    const ClassificationMetrics metrics = classification_metrics(truth, predicted, 3);
    EXPECT_EQ(metrics.examples, 10);
    EXPECT_DOUBLE_EQ(metrics.accuracy, 0.6);
    const double precision[] = {0.75, 0.5, 0.5}, recall[] = {0.75, 2.0 / 3.0, 1.0 / 3.0};
    const double f1[] = {0.75, 4.0 / 7.0, 0.4};
    const int64_t examples[] = {4, 3, 3}, predictions[] = {4, 4, 2};
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_DOUBLE_EQ(metrics.classes[i].precision, precision[i]) << i;
        EXPECT_DOUBLE_EQ(metrics.classes[i].recall, recall[i]) << i;
        EXPECT_DOUBLE_EQ(metrics.classes[i].f1, f1[i]) << i;
        EXPECT_EQ(metrics.classes[i].examples, examples[i]) << i;
        EXPECT_EQ(metrics.classes[i].predicted, predictions[i]) << i;
    }
    EXPECT_DOUBLE_EQ(metrics.macro_precision, 1.75 / 3.0);
    EXPECT_DOUBLE_EQ(metrics.macro_recall, 1.75 / 3.0);
    EXPECT_DOUBLE_EQ(metrics.macro_f1, (0.75 + 4.0 / 7.0 + 0.4) / 3.0);
}

// The mutant of a metric that mixes up the two axes: with the roles exchanged, precision and recall
// change places.
TEST(ClassificationMetrics, ExchangedRolesExchangePrecisionAndRecall) {
    const ClassificationMetrics one = classification_metrics(truth, predicted, 3);
    const ClassificationMetrics other = classification_metrics(predicted, truth, 3);
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_DOUBLE_EQ(one.classes[i].precision, other.classes[i].recall);
        EXPECT_DOUBLE_EQ(one.classes[i].f1, other.classes[i].f1);
    }
    EXPECT_NE(one.classes[1].precision, other.classes[1].precision);
}

TEST(ClassificationMetrics, AClassThatNeverOccursIsNoPartOfTheMeans) {
    const ClassificationMetrics three = classification_metrics(truth, predicted, 3);
    const ClassificationMetrics four = classification_metrics(truth, predicted, 4);
    EXPECT_EQ(four.classes[3].f1, 0.0);
    EXPECT_DOUBLE_EQ(three.macro_f1, four.macro_f1);
    EXPECT_DOUBLE_EQ(three.macro_recall, four.macro_recall);
}

TEST(ClassificationMetrics, AClassThatIsNeverPredictedHasPrecisionZeroAndCounts) {
    const ClassificationMetrics metrics = classification_metrics(
        std::vector<int32_t>{0, 0, 0, 1}, std::vector<int32_t>{0, 0, 0, 0}, 2);
    EXPECT_DOUBLE_EQ(metrics.accuracy, 0.75);
    EXPECT_EQ(metrics.classes[1].precision, 0.0);
    EXPECT_EQ(metrics.classes[1].recall, 0.0);
    EXPECT_DOUBLE_EQ(metrics.macro_f1, (6.0 / 7.0) / 2.0);
}

TEST(ClassificationMetrics, NoExamplesAreZerosNotNumbersThatAreNone) {
    const ClassificationMetrics metrics = classification_metrics(Confusion(2));
    EXPECT_EQ(metrics.accuracy, 0.0);
    EXPECT_EQ(metrics.macro_f1, 0.0);
}

TEST(ClassificationMetrics, CountsOfPartsAddUpToTheWhole) {
    Confusion whole(3), first(3), second(3);
    for (size_t i = 0; i < truth.size(); ++i) {
        whole.add(truth[i], predicted[i]);
        (i % 2 ? first : second).add(truth[i], predicted[i]);
    }
    for (size_t i = 0; i < 9; ++i)
        first.counts()[i] += second.counts()[i];
    EXPECT_TRUE(std::ranges::equal(whole.counts(), first.counts()));
    EXPECT_EQ(whole.count(2, 0), 1);
    EXPECT_THROW(whole.add(3, 0), Error);
    EXPECT_THROW(whole.add(0, -1), Error);
}

TEST(ClassificationMetrics, TableAndJsonNameEveryClass) {
    const ClassificationMetrics metrics = classification_metrics(truth, predicted, 3);
    const std::vector<std::string> names = {"bad", "so so", "good"};
    const std::string table = to_table(metrics, names);
    EXPECT_NE(table.find("so so      0.5000  0.6667  0.5714         3"), std::string::npos)
        << table;
    EXPECT_NE(table.find("accuracy 0.6000"), std::string::npos) << table;
    const core::io::Json json = to_json(metrics, names);
    EXPECT_EQ(json.get_array("classes")[2].get_string("label"), "good");
    EXPECT_DOUBLE_EQ(json.get_array("classes")[2].get_double("f1"), 0.4);
    EXPECT_DOUBLE_EQ(json.get_double("accuracy"), 0.6);
}

}  // namespace
}  // namespace plinth::launch
