// SPDX-License-Identifier: Apache-2.0
#include "core/models/classifier.h"

#include "core/ops/select_rows.h"

namespace plinth::core::models {

namespace {

constexpr const char* head_path = "classifier";

TransformerConfig without_language_head(TransformerConfig config) {
    config.language_head = false;
    return config;
}

}  // namespace

Classifier::Classifier(const TransformerConfig& trunk, int64_t classes, std::vector<Parts> chunks,
                       const nn::Layout& layout)
    : classes_(classes), trunk_(without_language_head(trunk), std::move(chunks), layout) {
    CHECK(classes > 1, "a classifier needs two classes or more, got {}", classes);
    if (trunk_.chunks().back().has_head)
        head_.emplace(nn::Declaration(trunk_.parameters(), layout) / head_path, trunk.width,
                      classes,
                      /*bias=*/true, trunk.init_stddev);
}

bool Classifier::is_head(const Parameter& parameter) {
    return parameter.name().starts_with(std::string(head_path) + ".");
}

Tensor Classifier::logits(const Batch& batch, const Tensor& features, const Tensor& rows) const {
    CHECK(head_, "this classifier is a stage of a pipeline without its head");
    // A labelled token may stand in any rank's slice.
    return (*head_)(ops::select_rows(head_->enter(features, batch.slice), rows));
}

Tensor Classifier::logits(const Batch& batch) const {
    return logits(batch, trunk_.features(batch), ops::find_labelled_rows(batch.targets).rows);
}

ops::Loss Classifier::loss(const Batch& batch) const {
    return loss(batch, trunk_.features(batch));
}

ops::Loss Classifier::loss(const Batch& batch, const Tensor& features) const {
    const ops::LabelledRows labelled = ops::find_labelled_rows(batch.targets);
    return ops::cross_entropy(logits(batch, features, labelled.rows), labelled.labels,
                              {.valid_columns = classes_});
}

Chunk Classifier::chunk(size_t number) {
    Chunk chunk{.parts = trunk_.chunks()[number],
                .parameters = trunk_.parameters_of(number),
                .forward_parameters = {},
                .input_shape = [this](const Batch& batch) { return trunk_.input_shape(batch); },
                .forward = {},
                .loss = {}};
    if (!chunk.parts.has_head) {
        chunk.forward = [this, number](const Batch& batch, const Tensor& x) {
            return trunk_.run(number, x, batch, trunk_.attention());
        };
        return chunk;
    }
    for (Parameter* parameter : parameters().all())
        if (is_head(*parameter)) chunk.parameters.push_back(parameter);
    chunk.loss = [this, number](const Batch& batch, const Tensor& x) {
        return loss(batch, trunk_.run(number, x, batch, trunk_.attention()));
    };
    return chunk;
}

std::vector<Phase> Classifier::phases() {
    Phase phase{.name = "classification", .chunks = {}, .parameters = parameters().all()};
    for (size_t number = 0; number < trunk_.chunks().size(); ++number)
        phase.chunks.push_back(chunk(number));
    return {std::move(phase)};
}

}  // namespace plinth::core::models
