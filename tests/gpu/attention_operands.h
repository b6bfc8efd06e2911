// SPDX-License-Identifier: Apache-2.0
// What the tests of attention and of its parts share.
#pragma once

#include "kernels/attention.h"
#include "tests/gpu/device_test.h"
#include "tests/support/cases/attention.h"

namespace plinth::test {

/// Wide enough that some scores rule their rows.
inline Operand spread(const std::string& name, const Shape& shape, DType dtype) {
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    const RandomKey key(11, name);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = 2.5f * (static_cast<float>(key.words(i)[0]) * 0x1p-31f - 1.0f);
    return input_of(name, shape, values, dtype);
}

/// ALiBi's, or left out.
inline Operand slopes_of(const AttentionCase& c) {
    if (!c.alibi) return {};
    return input_of("slopes", {c.heads}, kernels::alibi_slopes(c.heads));
}

/// Documents of uneven lengths, or left out; their numbers are no positions, and differ between
/// samples.
inline Operand document_numbers(const AttentionCase& c) {
    if (!c.documents) return {};
    std::vector<int32_t> numbers;
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < c.tokens; ++t)
            numbers.push_back(static_cast<int32_t>(10 * b + (t + 31 * b) / 45));
    return input_of("documents", {c.batch, c.tokens}, numbers);
}

/// Left out without dropout.
inline Operand sample_numbers(const AttentionCase& c) {
    if (c.dropout == 0.0f) return {};
    std::vector<int64_t> numbers;
    for (int64_t b = 0; b < c.batch; ++b)
        numbers.push_back(5'000'000'000 + b);
    return input_of("samples", {c.batch}, numbers);
}

inline kernels::Attention attention_options(const AttentionCase& c) {
    return {.heads = c.heads,
            .kv_heads = c.kv_heads,
            .causal = c.causal,
            .window = c.window,
            .dropout = c.dropout,
            .random = StepKey(42, "blocks.0.attention", 3),
            .first_head = 3};
}

}  // namespace plinth::test
