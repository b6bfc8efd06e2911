// SPDX-License-Identifier: Apache-2.0
#include "launch/classification_metrics.h"

#include <fmt/core.h>

#include <algorithm>

#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

double ratio(int64_t part, int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

ClassMetrics metrics_of_class(const Confusion& confusion, int64_t number) {
    ClassMetrics result;
    for (int64_t other = 0; other < confusion.classes(); ++other) {
        result.examples += confusion.count(number, other);
        result.predicted += confusion.count(other, number);
    }
    const int64_t right = confusion.count(number, number);
    result.precision = ratio(right, result.predicted);
    result.recall = ratio(right, result.examples);
    result.f1 = ratio(2 * right, result.predicted + result.examples);
    return result;
}

void check_names(const ClassificationMetrics& metrics, const std::vector<std::string>& names) {
    CHECK(names.size() == metrics.classes.size(), "{} names for {} classes", names.size(),
          metrics.classes.size());
}

}  // namespace

Confusion::Confusion(int64_t classes)
    : classes_(classes), counts_(static_cast<size_t>(classes * classes), 0) {}

size_t Confusion::at(int64_t truth, int64_t predicted) const {
    CHECK(truth >= 0 && truth < classes_ && predicted >= 0 && predicted < classes_,
          "class {} taken for {}, of {} classes", truth, predicted, classes_);
    return static_cast<size_t>(truth * classes_ + predicted);
}

void Confusion::add(int64_t truth, int64_t predicted) {
    ++counts_[at(truth, predicted)];
}

ClassificationMetrics classification_metrics(const Confusion& confusion) {
    ClassificationMetrics result;
    int64_t right = 0, occurring = 0;
    for (int64_t number = 0; number < confusion.classes(); ++number) {
        const ClassMetrics metrics = metrics_of_class(confusion, number);
        result.examples += metrics.examples;
        right += confusion.count(number, number);
        occurring += metrics.examples + metrics.predicted > 0 ? 1 : 0;
        result.macro_precision += metrics.precision;
        result.macro_recall += metrics.recall;
        result.macro_f1 += metrics.f1;
        result.classes.push_back(metrics);
    }
    result.accuracy = ratio(right, result.examples);
    for (double* macro : {&result.macro_precision, &result.macro_recall, &result.macro_f1})
        *macro /= static_cast<double>(std::max<int64_t>(1, occurring));
    return result;
}

ClassificationMetrics classification_metrics(std::span<const int32_t> truth,
                                             std::span<const int32_t> predicted, int64_t classes) {
    CHECK(truth.size() == predicted.size(), "{} labels, {} predictions", truth.size(),
          predicted.size());
    Confusion confusion(classes);
    for (size_t i = 0; i < truth.size(); ++i)
        confusion.add(truth[i], predicted[i]);
    return classification_metrics(confusion);
}

std::string to_table(const ClassificationMetrics& metrics, const std::vector<std::string>& names) {
    check_names(metrics, names);
    size_t width = sizeof("class");
    for (const std::string& name : names)
        width = std::max(width, name.size());
    std::string text = fmt::format("{:{}}  precision  recall      f1  examples\n", "class", width);
    const auto add_line = [&](const std::string& name, double precision, double recall, double f1,
                              int64_t examples) {
        text += fmt::format("{:{}}  {:9.4f}  {:6.4f}  {:6.4f}  {:8}\n", name, width, precision,
                            recall, f1, examples);
    };
    for (size_t i = 0; i < names.size(); ++i) {
        const ClassMetrics& one = metrics.classes[i];
        add_line(names[i], one.precision, one.recall, one.f1, one.examples);
    }
    add_line("macro", metrics.macro_precision, metrics.macro_recall, metrics.macro_f1,
             metrics.examples);
    return text + fmt::format("accuracy {:.4f}", metrics.accuracy);
}

core::io::Json to_json(const ClassificationMetrics& metrics,
                       const std::vector<std::string>& names) {
    check_names(metrics, names);
    core::io::Json json = core::io::Json::object();
    json["examples"] = metrics.examples;
    json["accuracy"] = metrics.accuracy;
    json["macro_precision"] = metrics.macro_precision;
    json["macro_recall"] = metrics.macro_recall;
    json["macro_f1"] = metrics.macro_f1;
    for (size_t i = 0; i < names.size(); ++i) {
        const ClassMetrics& one = metrics.classes[i];
        core::io::Json entry = core::io::Json::object();
        entry["label"] = names[i];
        entry["examples"] = one.examples;
        entry["predicted"] = one.predicted;
        entry["precision"] = one.precision;
        entry["recall"] = one.recall;
        entry["f1"] = one.f1;
        json["classes"].push_back(std::move(entry));
    }
    return json;
}

}  // namespace plinth::launch
