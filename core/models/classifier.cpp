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

Classifier::Classifier(TransformerConfig trunk, int64_t classes)
    : classes_(classes),
      trunk_(without_language_head(trunk)),
      head_(nn::Declaration(trunk_.parameters()) / head_path, trunk.width, classes, /*bias=*/true,
            trunk.init_stddev) {
    CHECK(classes > 1, "a classifier needs two classes or more, got {}", classes);
}

bool Classifier::is_head(const Parameter& parameter) {
    return parameter.name().starts_with(std::string(head_path) + ".");
}

Tensor Classifier::logits(const Batch& batch, const Tensor& rows) const {
    return head_(ops::select_rows(trunk_.features(batch), rows));
}

Tensor Classifier::logits(const Batch& batch) const {
    return logits(batch, ops::find_labelled_rows(batch.targets).rows);
}

ops::Loss Classifier::loss(const Batch& batch) const {
    const ops::LabelledRows labelled = ops::find_labelled_rows(batch.targets);
    return ops::cross_entropy(logits(batch, labelled.rows), labelled.labels,
                              {.valid_columns = classes_});
}

std::vector<Phase> Classifier::phases() {
    return {{.name = "classification",
             .loss = [this](const Batch& batch) { return loss(batch); },
             .parameters = parameters().all()}};
}

}  // namespace plinth::core::models
