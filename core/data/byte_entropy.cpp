// SPDX-License-Identifier: Apache-2.0
#include "core/data/byte_entropy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

namespace plinth::core::data {

namespace {

constexpr int64_t window = int64_t{1} << 20;  // tokens in memory at once

}  // namespace

void ByteBigrams::add(std::string_view bytes) {
    for (const char c : bytes) {
        const int byte = static_cast<unsigned char>(c);
        if (previous_ != none) ++counts_[static_cast<size_t>(previous_ * 256 + byte)];
        previous_ = byte;
    }
}

int64_t ByteBigrams::pairs() const {
    return std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
}

double ByteBigrams::conditional_entropy() const {
    double bits = 0.0;
    for (size_t first = 0; first < 256; ++first) {
        const std::span<const int64_t> row(counts_.data() + first * 256, 256);
        const auto total = static_cast<double>(std::accumulate(row.begin(), row.end(), int64_t{0}));
        for (const int64_t count : row)
            if (count > 0) bits += double(count) * std::log2(total / double(count));
    }
    const int64_t all = pairs();
    return all > 0 ? bits / static_cast<double>(all) : 0.0;
}

ByteBigrams count_byte_bigrams(const Dataset& split, const Tokenizer& tokenizer) {
    ByteBigrams bigrams;
    std::vector<int32_t> tokens, positions, documents;
    for (int64_t at = 0; at < split.tokens(); at += window) {
        // Each window but the first begins with the last token of the one before it: only a change
        // of document inside a window shows where one begins.
        const int64_t begin = std::max<int64_t>(0, at - 1);
        const auto count = static_cast<size_t>(std::min(at + window, split.tokens()) - begin);
        for (auto* values : {&tokens, &positions, &documents})
            values->resize(count);
        split.read_tokens(begin, tokens);
        split.read_documents(begin, positions, documents);
        for (size_t i = at > begin ? 1 : 0; i < count; ++i) {
            if (i > 0 && documents[i] != documents[i - 1]) bigrams.begin_document();
            if (tokens[i] != tokenizer.end_of_document())
                bigrams.add(tokenizer.token_bytes(tokens[i]));
        }
    }
    return bigrams;
}

}  // namespace plinth::core::data
