// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/models/transformer.h"

namespace plinth::core::models {

/// A transformer with a linear head over classes, which reads the features of one token of each
/// sample. A batch's targets hold a class id at that token and are ignored elsewhere.
///
/// The trunk's parameters have the names that they have in a language model, so that a checkpoint
/// of one gives them; the language head is not declared. The head is classifier.weight [C, D] and
/// classifier.bias [C].
class Classifier final : public Model {
  public:
    /// `trunk.language_head` is ignored.
    Classifier(const TransformerConfig& trunk, int64_t classes,
               const nn::Layout& layout = nn::whole_layout())
        : Classifier(trunk, classes, std::vector<Parts>{Parts::whole(trunk.layers)}, layout) {}
    /// Only these parts of it; see Transformer.
    Classifier(const TransformerConfig& trunk, int64_t classes, std::vector<Parts> chunks,
               const nn::Layout& layout = nn::whole_layout());

    int64_t classes() const { return classes_; }
    const TransformerConfig& config() const { return trunk_.config(); }
    nn::ParameterSet& parameters() override { return trunk_.parameters(); }
    /// One phase, "classification".
    std::vector<Phase> phases() override;

    /// True for a parameter that a language model does not have.
    static bool is_head(const Parameter& parameter);

    /// Logits [B, C].
    Tensor logits(const Batch& batch) const;
    /// Cross-entropy summed over the samples; the weight counts samples.
    ops::Loss loss(const Batch& batch) const;

  private:
    Tensor logits(const Batch& batch, const Tensor& features, const Tensor& rows) const;
    ops::Loss loss(const Batch& batch, const Tensor& features) const;
    Chunk chunk(size_t number);

    int64_t classes_;
    Transformer trunk_;
    std::optional<nn::Linear> head_;  ///< where the last part is
};

}  // namespace plinth::core::models
