// SPDX-License-Identifier: Apache-2.0
// A ring of two ranks for attention, a group of eight for the vocabulary.
#include <fmt/format.h>

#include <memory>

#include "benchmarks/gpu/model_rows.h"
#include "kernels/attention_part.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"

namespace plinth::test {

namespace {

constexpr DType bf16 = DType::bf16, f32 = DType::f32;

double number(int64_t n) {
    return static_cast<double>(n);
}

/// What meets in one step of the ring: half of the queries, the other half of the keys, all of
/// which they see.
struct PartTensors {
    View y, log_sum, q, k, v;
    kernels::AttentionPart part;
    kernels::Attention options;

    PartTensors(DeviceTensors& t, const ModelSizes& m)
        : part{.first_query = m.T / 2, .first_key = 0, .tokens = m.T},
          options{.heads = m.H, .kv_heads = m.G} {
        const Shape queries{m.B, m.T / 2, m.H * m.K}, keys{m.B, m.T / 2, m.G * m.K};
        y = t.random(queries, f32);
        log_sum = t.zeros({m.B, m.H, m.T / 2}, f32);
        q = t.random(queries, bf16);
        k = t.random(keys, bf16);
        v = t.random(keys, bf16);
    }

    void forward(bool begins, Stream& stream) const {
        kernels::AttentionPart now = part;
        now.begins = begins;
        kernels::attention_part_forward(y, log_sum, q, k, v, {}, now, options, stream);
    }
};

std::vector<TableRow> part_rows(const ModelSizes& m) {
    const int64_t B = m.B, half = m.T / 2;
    const double flops = 4.0 * number(B * half * half) * number(m.H * m.K);
    const std::string shape = fmt::format("{}x{} H{} G{} K{}", B, half, m.H, m.G, m.K);
    TableRow forward{.name = m.name + " attention_part forward",
                     .shape = shape,
                     .work = {.flops = flops},
                     .prepare = {}};
    forward.prepare = [m](DeviceTensors& t) -> KernelCall {
        const PartTensors tensors(t, m);
        auto begins = std::make_shared<bool>(true);
        return [=](Stream& stream) {
            tensors.forward(*begins, stream);
            *begins = false;
        };
    };
    TableRow backward{.name = m.name + " attention_part backward",
                      .shape = shape,
                      .work = {.flops = 2.5 * flops},
                      .prepare = {}};
    backward.prepare = [m](DeviceTensors& t) -> KernelCall {
        const PartTensors tensors(t, m);
        const View y = t.zeros(tensors.y.shape, bf16), dy = t.random(y.shape, bf16),
                   dq = t.zeros(y.shape, f32), dk = t.zeros(tensors.k.shape, f32),
                   dv = t.zeros(tensors.k.shape, f32);
        auto is_ready = std::make_shared<bool>(false);
        return [=](Stream& stream) {
            if (!*is_ready) {  // in the warm-up: y and log_sum that belong to the keys
                tensors.forward(true, stream);
                kernels::cast(y, tensors.y, stream);
            }
            *is_ready = true;
            kernels::attention_part_backward(dq, dk, dv, dy, y, tensors.log_sum, tensors.q,
                                             tensors.k, tensors.v, {}, tensors.part,
                                             tensors.options, stream);
        };
    };
    const Shape packed{B, half, m.qkv_columns()}, others{2, B, half, m.G * m.K};
    TableRow join{
        .name = m.name + " attention_part join",
        .shape = packed.text(),
        .work = {.bytes = number(packed.elements()) * (4 + 2) + number(others.elements()) * 4},
        .prepare = {}};
    join.prepare = [=](DeviceTensors& t) -> KernelCall {
        const View dqkv = t.random(packed, bf16), own = t.random(packed, f32),
                   of_others = t.random(others, f32);
        return [=](Stream& stream) { kernels::attention_part_join(dqkv, own, of_others, stream); };
    };
    return {forward, backward, join};
}

/// The second of eight ranks' columns, then what all found.
std::vector<TableRow> vocabulary_rows(const ModelSizes& m) {
    constexpr int64_t ranks = 8;
    const int64_t N = m.head_tokens, V = m.V / ranks;
    const Shape logits{N, V}, parts{ranks, 3, N};
    const kernels::CrossEntropy options{.first_column = V, .valid_columns = 2 * V};
    TableRow local{.name = m.name + " cross_entropy local of 8",
                   .shape = logits.text(),
                   .work = {.bytes = 2 * number(logits.elements())},
                   .prepare = {}};
    local.prepare = [=, total = m.V](DeviceTensors& t) -> KernelCall {
        const View largest = t.zeros({N}, f32), sum = t.zeros({N}, f32), target = t.zeros({N}, f32),
                   x = t.random(logits, bf16, 4.0f), targets = t.random_ids({N}, total);
        return [=](Stream& stream) {
            kernels::cross_entropy_local(largest, sum, target, x, targets, options, stream);
        };
    };
    TableRow combine{.name = m.name + " cross_entropy combine",
                     .shape = parts.text(),
                     .work = {.bytes = 4 * number((ranks + 1) * 3 * N)},
                     .prepare = {}};
    combine.prepare = [=](DeviceTensors& t) -> KernelCall {
        const View largest = t.zeros({N}, f32), sum = t.zeros({N}, f32), target = t.zeros({N}, f32),
                   found = t.random(parts, f32);
        return [=](Stream& stream) {
            kernels::cross_entropy_combine(largest, sum, target, found, stream);
        };
    };
    return {local, combine};
}

}  // namespace

std::vector<TableRow> shared_rows(const ModelSizes& model) {
    std::vector<TableRow> rows = part_rows(model);
    for (const TableRow& row : vocabulary_rows(model))
        rows.push_back(row);
    return rows;
}

}  // namespace plinth::test
