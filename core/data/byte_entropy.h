// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/tokenizer.h"

namespace plinth::core::data {

/// Counts of adjacent byte pairs within documents.
class ByteBigrams {
  public:
    /// The next byte has no predecessor.
    void begin_document() { previous_ = none; }
    void add(std::string_view bytes);

    int64_t pairs() const;

    /// The entropy of a byte given the one before it, in bits, with the counts c(a, b) themselves
    /// as the distribution:
    ///   H = - sum_{a,b} c(a,b) / N * log2(c(a,b) / c(a)),   c(a) = sum_b c(a,b),   N = sum_a c(a).
    /// No model that sees one byte of context can spend fewer bits per byte on the counted text, so
    /// a trained model below it has learnt more than pairs. 0 without pairs.
    /// Source: Shannon 1951, equation 1 with N = 2.
    double conditional_entropy() const;

  private:
    static constexpr int none = -1;
    std::vector<int64_t> counts_ = std::vector<int64_t>(256 * 256);  ///< [first][second]
    int previous_ = none;
};

/// Reads a whole split. Tokens become bytes again; end tokens are left out.
ByteBigrams count_byte_bigrams(const Dataset& split, const Tokenizer& tokenizer);

}  // namespace plinth::core::data
