// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "core/data/source.h"
#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

ExampleSource::ExampleSource(std::string name, std::vector<Example> examples, int64_t window,
                             int32_t pad_id)
    : name_(std::move(name)), examples_(std::move(examples)), pad_id_(pad_id) {
    io::Xxh3 hash;
    for (size_t i = 0; i < examples_.size(); ++i) {
        const auto& [tokens, is_label] = examples_[i];
        REQUIRE(data, tokens.size() == is_label.size(),
                "{}: example {}: {} tokens but {} label marks", name_, i, tokens.size(),
                is_label.size());
        REQUIRE(data, tokens.size() >= 2 && tokens.size() <= static_cast<size_t>(window) + 1,
                "{}: example {}: {} tokens, but 2 to {} fit a sequence of {}", name_, i,
                tokens.size(), window + 1, window);
        REQUIRE(data, std::any_of(is_label.begin() + 1, is_label.end(), [](auto l) { return l; }),
                "{}: example {}: no token carries a loss", name_, i);
        const uint64_t length = tokens.size();
        hash.update(std::as_bytes(std::span(&length, 1)));
        hash.update(std::as_bytes(std::span(tokens)));
        hash.update(std::as_bytes(std::span(is_label)));
    }
    fingerprint_ = io::to_hex(hash.digest128());
}

BlendSource ExampleSource::describe() const {
    return {.name = name_,
            .units = static_cast<int64_t>(examples_.size()),
            .examples = true,
            .fingerprint = fingerprint_};
}

void ExampleSource::fill(const SampleRef& ref, bool, const SampleView& view) const {
    const auto& [tokens, is_label] = examples_[static_cast<size_t>(ref.unit)];
    const size_t used = tokens.size() - 1;
    std::copy_n(tokens.begin(), used, view.inputs.begin());
    for (size_t t = 0; t < used; ++t)
        view.targets[t] = is_label[t + 1] ? tokens[t + 1] : kIgnoredTarget;
    std::iota(view.positions.begin(), view.positions.end(), 0);
    std::fill_n(view.document_ids.begin(), used, 0);
    const auto pad = [&](std::span<int32_t> row, int32_t value) {
        std::fill(row.begin() + static_cast<ptrdiff_t>(used), row.end(), value);
    };
    pad(view.inputs, pad_id_);
    pad(view.targets, kIgnoredTarget);
    pad(view.document_ids, kPaddingDocument);
}

}  // namespace plinth::core::data
