// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluate_classifier.h"

#include "core/io/json.h"
#include "launch/restored_classifier.h"

namespace plinth::launch {

namespace {

ClassifyOptions classify_options(const EvaluateSection& section,
                                 const RestoredClassifier& restored) {
    const ModelSection& model = restored.config.model;
    const ClassifyOptions options{.window = section.sequence_length > 0
                                                ? section.sequence_length
                                                : restored.config.data.sequence_length,
                                  .micro_batch = section.micro_batch,
                                  .dtype = dtype_of(section.dtype),
                                  .groups = *restored.groups};
    REQUIRE(config,
            model.positions != PositionKind::learned || options.window <= model.max_positions,
            "evaluate.sequence_length: {} is over the {} positions of {}", options.window,
            model.max_positions, restored.folder);
    return options;
}

}  // namespace

int evaluate_classifier(const EvaluateConfig& config, Session& session) {
    const EvaluateSection& section = config.evaluate;
    const RestoredClassifier restored =
        RestoredClassifier::open(section.checkpoint, config.parallel, session);
    const ClassifyOptions options = classify_options(section, restored);
    std::vector<std::vector<core::data::TextPair>> sets;  // all are read before the first is run
    for (const std::string& input : section.data) {
        sets.push_back(core::data::read_text_pairs(session.files(), {input}, "evaluate.data",
                                                   section.field, section.label_field));
        REQUIRE(data, !sets.back().empty(), "{}: holds no example", input);
    }
    core::io::Json json = core::io::Json::object();
    json["checkpoint"] = restored.folder;
    json["step"] = restored.step;
    session.print_result(fmt::format("{} at step {}, texts of up to {} tokens", restored.folder,
                                     restored.step, options.window));
    for (size_t i = 0; i < sets.size(); ++i) {
        const ClassificationMetrics metrics =
            classification_metrics(classify(restored, sets[i], options, session));
        session.print_result(
            fmt::format("{}\n{}", section.data[i], to_table(metrics, restored.labels)));
        core::io::Json result = to_json(metrics, restored.labels);
        result["name"] = section.data[i];
        json["results"].push_back(std::move(result));
    }
    if (!section.output.empty() && session.speaks())
        core::io::write_atomically(session.files(), section.output, json.dump(2) + "\n");
    return 0;
}

}  // namespace plinth::launch
