// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/data/sampler.h"

namespace plinth::core::data {

/// A target that carries no loss.
inline constexpr int32_t kIgnoredTarget = -100;

/// One sample of T tokens, to be filled: targets[t] follows inputs[t].
struct SampleView {
    std::span<int32_t> inputs;
    std::span<int32_t> targets;
    std::span<int32_t> positions;
    std::span<int32_t> document_ids;  ///< 0, 1, ... in the order of the sample's documents
};

/// Something a blend can name. Thread safe: I/O threads fill samples at the same time.
class Source {
  public:
    virtual ~Source() = default;
    /// Name, units and fingerprint; the weight is the configuration's to set.
    virtual BlendSource describe() const = 0;
    /// Fills the sample at `ref`. With `document_mask`, positions and ids restart at each document;
    /// without, positions count up and all ids are 0.
    virtual void fill(const SampleRef& ref, bool document_mask, const SampleView& view) const = 0;
};

/// One fine-tuning example.
struct Example {
    std::vector<int32_t> tokens;
    std::vector<uint8_t> is_label;  ///< 1: predicting this token counts in the loss
};

/// The document id of padding, after that of the example, which is 0.
inline constexpr int32_t kPaddingDocument = 1;

/// Examples in memory. A sample holds one of them, padded; padding is another document, so that
/// with a document mask nothing attends to it.
class ExampleSource final : public Source {
  public:
    /// An example holds 2 to `window` + 1 tokens and at least one label after its first token;
    /// another one is an error of kind data that names its number from 0.
    ExampleSource(std::string name, std::vector<Example> examples, int64_t window, int32_t pad_id);

    BlendSource describe() const override;
    void fill(const SampleRef& ref, bool document_mask, const SampleView& view) const override;
    const std::vector<Example>& examples() const { return examples_; }

  private:
    std::string name_;
    std::vector<Example> examples_;
    int32_t pad_id_;
    std::string fingerprint_;
};

}  // namespace plinth::core::data
