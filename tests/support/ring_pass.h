// SPDX-License-Identifier: Apache-2.0
// Attention over a ring of ranks, each a thread, forwards and backwards.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "parallel/comm/nccl_links.h"
#include "parallel/comm/threads.h"
#include "parallel/context_parallel/ring_attention.h"
#include "parallel/context_parallel/zigzag.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {

struct RingCase {
    const char* name;
    int64_t batch, tokens, heads, kv_heads, width;
    bool causal = true, alibi = false, documents = false;
    float dropout = 0.0f;
    int64_t window = 0;

    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    core::nn::InnerAttentionCall call() const {
        return {.layer = 3,
                .options = {.heads = heads,
                            .kv_heads = kv_heads,
                            .causal = causal,
                            .window = window,
                            .dropout = dropout},
                .slopes = alibi ? core::nn::AlibiSlopes(heads, 0, heads) : core::nn::AlibiSlopes(),
                .dropout_name = "blocks.3.attention.weights"};
    }
};

/// Lengths that 1, 2, 3 and 6 ranks share; runs shorter and longer than a block of 64.
inline const std::vector<RingCase> ring_cases = {
    {"plain", 2, 48, 2, 2, 8},
    {"long", 1, 480, 2, 1, 16},
    {"bidirectional", 2, 96, 2, 2, 5, false},
    {"alibi", 1, 96, 3, 3, 8, true, true},
    {"documents", 2, 192, 4, 2, 8, true, false, true},
    {"bidirectional documents", 1, 96, 2, 2, 8, false, false, true},
    {"dropout", 2, 96, 2, 2, 8, true, false, false, 0.25f},
    {"short window", 1, 480, 2, 1, 8, true, false, false, 0.0f, 17},
    {"long window", 2, 192, 2, 2, 8, true, false, false, 0.0f, 100},
    {"everything", 2, 144, 4, 2, 12, true, true, true, 0.1f, 50}};

/// Output and gradient of qkv, of whole sequences in their order.
struct Passed {
    std::vector<double> y, dqkv;
};

struct RingSettings {
    /// Makes what RingAttention gets of a group; empty: the group itself.
    std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator&)> between = {};
    Device device = {};  ///< of all ranks
};

/// Rows of a tensor [B, T, columns] of whole sequences that are those of this part.
inline std::vector<float> rows_of(const std::vector<float>& whole, const RingCase& c,
                                  int64_t columns, const core::SequencePart& part) {
    const int64_t tokens = part.is_whole() ? c.tokens : 2 * part.run;
    std::vector<float> rows;
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < tokens; ++t) {
            const auto row = whole.begin() + (b * c.tokens + part.position(t)) * columns;
            rows.insert(rows.end(), row, row + columns);
        }
    return rows;
}

inline void put_rows(std::vector<double>& whole, const core::Tensor& mine, const RingCase& c,
                     const core::SequencePart& part, Stream& stream) {
    CachingAllocator memory(host_memory());
    core::Tensor here = core::Tensor::empty(mine.shape(), mine.dtype(), memory);
    const View to = here.out();
    stream.copy(to.data, mine.in().data, to.bytes());
    stream.synchronize();
    const std::vector<double> values = to_doubles(here);
    const int64_t tokens = mine.dim(1), columns = mine.dim(2);
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < tokens; ++t)
            std::copy_n(values.begin() + (b * tokens + t) * columns, columns,
                        whole.begin() + (b * c.tokens + part.position(t)) * columns);
}

/// The batch as far as attention reads it.
inline core::Batch batch_of(const RingCase& c, const core::SequencePart& part,
                            const core::Scope& scope) {
    std::vector<int32_t> documents;
    std::vector<int64_t> samples;
    for (int64_t b = 0; b < c.batch; ++b) {
        samples.push_back(5'000'000'000 + b);
        for (int64_t t = 0; t < c.tokens; ++t)
            documents.push_back(static_cast<int32_t>(7 * b + (t + 11 * b) / 29));
    }
    core::Batch batch{.sample_ids = scope.of(samples, {c.batch}), .part = part};
    if (c.documents) batch.document_ids = scope.of(documents, {c.batch, c.tokens});
    return batch;
}

inline Passed pass(const RingCase& c, int ranks, DType dtype, const RingSettings& settings = {}) {
    const int64_t y_columns = c.heads * c.width;
    const auto qkv_values = random_values(c.batch * c.tokens * c.columns(), "qkv"),
               dy_values = random_values(c.batch * c.tokens * y_columns, "dy");
    Passed all{std::vector<double>(dy_values.size()), std::vector<double>(qkv_values.size())};
    parallel::run_as_threads(ranks, [&](parallel::Communicator& sound) {
        Surroundings here(1, settings.device);
        const parallel::DeviceConnection connection(sound, here.stream,
                                                    parallel::DeviceWay::staged);
        const auto made = settings.between ? settings.between(sound) : nullptr;
        parallel::Communicator& group = made ? *made : sound;
        core::Tape tape;
        const core::Scope scope(here.settings(&tape));
        const core::SequencePart part = parallel::zigzag_part(c.tokens, sound.rank(), ranks);
        const auto rows = [&](const std::vector<float>& whole, int64_t columns) {
            const std::vector<float> mine = rows_of(whole, c, columns, part);
            const Shape shape{c.batch, c.tokens / ranks, columns};
            if (dtype == DType::f32) return scope.of(mine, shape);
            return scope.of(std::vector<BFloat16>(mine.begin(), mine.end()), shape);
        };
        core::Tensor qkv = rows(qkv_values, c.columns());
        const core::Tensor dy = rows(dy_values, y_columns);
        tape.watch(qkv);
        const core::Tensor y =
            parallel::RingAttention(group).attend(c.call(), qkv, batch_of(c, part, scope));
        const auto dqkv = tape.backward({{y, dy}}, {&qkv, 1});
        put_rows(all.y, y, c, part, here.stream);  // ranks write apart
        put_rows(all.dqkv, dqkv[0], c, part, here.stream);
    });
    return all;
}

/// Largest difference, in parts of the largest element of b; of what is no number, infinite.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double furthest = 0.0, largest = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (std::isnan(a[i])) return std::numeric_limits<double>::infinity();
        furthest = std::max(furthest, std::abs(a[i] - b[i]));
        largest = std::max(largest, std::abs(b[i]));
    }
    return furthest / largest;
}

}  // namespace plinth::test
