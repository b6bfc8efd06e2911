// SPDX-License-Identifier: Apache-2.0
#include "launch/plan_activations.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/ops/cross_entropy.h"
#include "launch/plan_shares.h"
#include "launch/session.h"

namespace plinth::launch {

namespace {

/// Elements a token in which a sum over a tensor group is folded: fp32, in bf16 beside a summand
/// and the result.
int64_t folding(const RunConfig& config) {
    const int64_t share = config.model.width / config.parallel.tensor;
    return config.train.dtype == ComputeType::bf16 ? 5 * share : share;
}

/// As passing_through_block, with 8-bit operands, of which two take the place of a bf16 element:
/// those of a gradient in both layouts, and those of an input that is made again.
int64_t fp8_passing_through_block(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor, w = m.width, f = m.ffn_width / t, shares = 2 * w / t;
    const bool remakes = remakes_norms(config.train.recompute);
    const int64_t remade = remakes ? f : 0;
    if (m.activation == Activation::swiglu) {
        // What a product and the activation function have kept is free when they are done. A
        // gradient that another stage sent is not.
        const int64_t free = remakes ? 0 : f / 2, sent = config.parallel.pipeline > 1 ? w : 0;
        const int64_t in_down = 3 * w / 2 + f + 3 * remade / 2, in_activation = w + 3 * f - free,
                      in_gate_up = 2 * w + 2 * f - free;
        if (t == 1) return sent + std::max({in_down, in_activation, in_gate_up});
        return shares + std::max({in_down, 3 * f, 3 * w + f, 3 * w + remade + folding(config)});
    }
    const int64_t in_mlp = std::max(2 * f, remakes ? 3 * f : 0) + 5 * w / 2;
    if (t == 1) return in_mlp;
    return shares + std::max({in_mlp, 3 * w + 3 * remade / 2, 3 * w + folding(config)});
}

/// Elements a token that the passes of a block need at once beside what is kept. `is_sent`: another
/// stage sends the gradient of its output.
int64_t passing_through_block(const RunConfig& config, bool is_sent) {
    if (is_fp8(config)) return fp8_passing_through_block(config);
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor, share = m.width / t;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    const int64_t remade = remakes_norms(config.train.recompute) ? m.ffn_width : 0;
    // The MLP with GELU is one op, whose weight half makes its hidden layer again beside the
    // gradients of that layer's input, of its own input and of its output: this one twice where
    // another stage has sent it or dropout changes it.
    const bool is_one_op = m.activation != Activation::swiglu && remade > 0;
    // SwiGLU's own gradients are the most, before that of the MLP's input is made. Beside them is
    // that of the block's output, and once more where another stage has sent it.
    const bool is_before_input = m.activation == Activation::swiglu && remade == 0;
    const int64_t twice = is_sent || m.dropout > 0 ? 1 : 0;
    const int64_t outer = is_one_op                                          ? 2 + twice
                          : is_before_input && config.parallel.pipeline == 1 ? 1
                                                                             : 2;
    if (t == 1) return outer * m.width + hidden + remade;
    // A sum over the ranks: what is sent, in the order of the tokens and in that of the ranks, what
    // is received, and the result in fp32.
    if (is_one_op)
        return std::max(3 * m.width + std::max(remade / t, folding(config)),
                        2 * m.width + (hidden + remade) / t) +
               2 * share;
    // In the forward pass the output of the activation function is still there; backwards it is
    // made again beside its gradient.
    return std::max({3 * m.width + remade / t + 2 * share + folding(config),
                     m.width + (m.ffn_width + remade) / t + 2 * share,
                     (hidden + remade) / t + 3 * share});
}

/// The same for the backward pass of attention in a context group, beside what the block has kept:
/// fp32 gradients of qkv, keys and values at hand and on their way, and three sums of their
/// gradients, of which one is made while one leaves and one comes. What the MLP kept is free then.
int64_t ring_elements(const RunConfig& config) {
    const int64_t c = config.parallel.context, t = config.parallel.tensor;
    if (c == 1) return 0;
    const ModelSection& m = config.model;
    const int64_t wide = config.train.dtype == ComputeType::bf16 ? 2 : 1;
    const int64_t heads = m.heads * m.head_width / t, keys = passed_keys(config);
    const int64_t sums = c == 2 ? 2 : 3, at_hand = c > 3 ? 2 : 1;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    const int64_t remakeable = remakes_norms(config.train.recompute)
                                   ? 0
                                   : (m.width + m.ffn_width / t) / (is_fp8(config) ? 2 : 1);
    const int64_t freed = (m.width + hidden) / t + remakeable;
    return m.width / t + heads + wide * (heads + keys) +
           std::max(at_hand * keys + sums * wide * keys, heads + keys + wide * keys) - freed;
}

/// Beside what is kept, for the head.
int64_t head_elements(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor;
    const int64_t tokens = tokens_of_rank(config);
    const int64_t logits =
        std::min(tokens, core::ops::logit_rows_on(device_type_of(config.run.device))) *
        logit_columns(config);
    if (t == 1) return tokens * 3 * m.width + logits;
    return std::max(tokens * (2 * m.width + 3 * m.width / t) + logits,
                    tokens * (3 * m.width + 2 * m.width / t + folding(config)));
}

/// Of the activations of one micro-batch, elements a token.
struct ActivationSizes {
    int64_t kept_for_weights = 0;   ///< from the input half to a weight half that is put off
    int64_t kept_by_block = 0;      ///< from the forward to the backward pass
    int64_t while_in_backward = 0;  ///< beside them, in the backward pass of one block
    int64_t block_at_work = 0;      ///< when the block runs again
};

ActivationSizes activation_sizes(const RunConfig& config, bool is_sent) {
    const ModelSection& m = config.model;
    const int64_t qkv = (m.heads + 2 * m.kv_heads) * m.head_width;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    // Of a block's products: two residual sums, qkv (again when normed), attention output, the
    // MLP's hidden layer before its activation function. Remakeable: two norms and the activation
    // function. A rank of a tensor group has its share of all that, but for the inputs of the
    // products before attention and in the MLP, of which it gathers the whole.
    const int64_t t = config.parallel.tensor;
    // In fp32: the log of each head's sum of exponentials, mean and deviation of each norm's rows.
    const int64_t wide = config.train.dtype == ComputeType::bf16 ? 2 : 1;
    const int64_t statistics = wide * (m.heads + 2 * (m.norm == NormKind::rms ? 1 : 2));
    const int64_t products = (2 * m.width + (m.qk_norm ? 2 : 1) * qkv + m.heads * m.head_width +
                              hidden + statistics) /
                             t,
                  // Inputs of products, which keep 8 bits of them.
        remakeable = (2 * m.width + m.ffn_width / t) / (is_fp8(config) ? 2 : 1);
    const int64_t passing = std::max(passing_through_block(config, is_sent), ring_elements(config));
    // The inputs of the products and the gradients of their outputs. What the activation function
    // makes again comes from its input.
    const bool remakes = remakes_norms(config.train.recompute);
    const int64_t narrow = is_fp8(config) && !remakes ? (2 * m.width + m.ffn_width) / 2 : 0;
    const int64_t halves = (4 * m.width + m.heads * m.head_width + (m.qk_norm ? 2 : 1) * qkv +
                            hidden + (remakes ? hidden : m.ffn_width) - narrow) /
                           t;
    switch (config.train.recompute) {
        case Recompute::norms:
            return {halves, products, passing, 0};
        case Recompute::selective:
            // The hidden layer stays from the first who reads it to the last.
            return {halves, products - hidden / t, passing, hidden / t};
        case Recompute::full:
            // Its input is kept already, and what it gives nobody reads.
            return {halves, m.width / t, passing, products + remakeable - m.width / t};
        case Recompute::none:
            break;
    }
    return {halves, products + remakeable, passing, 0};
}

bool is_split(const RunConfig& config) {
    return config.parallel.pipeline > 1 &&
           config.parallel.schedule == PipelineSchedule::zero_bubble;
}

/// Micro-batches of each chunk between their forward pass and the end of their backward pass, when
/// those of all chunks weigh most.
std::vector<int64_t> alive_at_peak(const std::vector<parallel::Compute>& order,
                                   const std::vector<int64_t>& weights) {
    std::vector<int64_t> alive(weights.size()), at_peak = alive;
    const auto weight_of = [&](const std::vector<int64_t>& counts) {
        return std::inner_product(counts.begin(), counts.end(), weights.begin(), int64_t{0});
    };
    for (const parallel::Compute& pass : order) {
        int64_t& count = alive[static_cast<size_t>(pass.chunk)];
        if (pass.pass == parallel::Pass::forward) {
            ++count;
            if (weight_of(alive) >= weight_of(at_peak)) at_peak = alive;
        } else if (pass.pass != parallel::Pass::input_grad) {
            --count;
        }
    }
    return at_peak;
}

/// Of the micro-batches alive in a stage, those whose weight halves are put off.
int64_t put_off_by(const RunConfig& config, int stage, int64_t alive) {
    return is_split(config) ? std::min<int64_t>(stage + 1, alive) : 0;
}

/// Inputs of blocks that are where the model computes with train.offload_activations, in elements a
/// token.
struct InputsHere {
    int64_t after_forward = 0, in_backward = 0;
};

InputsHere inputs_here(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                       int64_t alive, const ActivationSizes& sizes) {
    int64_t most = 0;
    bool is_held = false;  // the input of a pass, by who makes it
    for (const core::models::Parts& parts : chunks) {
        most = std::max(most, parts.blocks);
        is_held = is_held || (parts.has_head && !parts.has_embedding);
    }
    // The newest; in a backward pass the one at hand and the one that comes, beside another
    // micro-batch's newest.
    const int64_t newest = most > 0 ? 1 : 0, coming = most > 1 ? 1 : 0;
    const int64_t others = alive > 1 ? newest : 0;
    return {
        .after_forward = (newest + (is_held ? coming : 0)) * sizes.kept_by_block,
        .in_backward = (newest + (is_split(config) ? 0 : coming) + others) * sizes.kept_by_block};
}

}  // namespace

int64_t offloaded_activation_bytes(const RunConfig& config,
                                   const std::vector<core::models::Parts>& chunks, int stage,
                                   const std::vector<parallel::Compute>& order) {
    if (!config.train.offload_activations) return 0;
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    std::vector<int64_t> blocks;
    for (const core::models::Parts& parts : chunks)
        blocks.push_back(parts.blocks);
    const std::vector<int64_t> alive = alive_at_peak(order, blocks);
    int64_t waiting = 0;
    for (size_t chunk = 0; chunk < blocks.size(); ++chunk) {
        // Where weight halves are put off, all but one of those that wait have taken their inputs.
        const int64_t put_off = put_off_by(config, stage, alive[chunk]);
        waiting += blocks[chunk] * (put_off > 0 ? alive[chunk] - put_off + 1 : alive[chunk]);
    }
    return element * tokens_of_rank(config) * activation_sizes(config, true).kept_by_block *
           waiting;
}

int64_t activation_bytes(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                         int stage, const std::vector<parallel::Compute>& order) {
    const ModelSection& m = config.model;
    const int64_t tokens = tokens_of_rank(config), share = m.width / config.parallel.tensor;
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const bool is_sent = stage + 1 < config.parallel.pipeline || chunks.size() > 1;
    const ActivationSizes sizes = activation_sizes(config, is_sent);
    const bool offloads = config.train.offload_activations;
    // Of a micro-batch: before its backward pass, in that of the last block, and after its input
    // half.
    int64_t kept = 0, in_backward = 0, waiting = 0;
    std::vector<int64_t> whole;     // of a chunk, before its backward pass
    std::optional<size_t> head_at;  // the chunk that has it
    for (const core::models::Parts& parts : chunks) {
        int64_t of_chunk = offloads ? 0 : parts.blocks * sizes.kept_by_block;
        // The final norm's input. That of a chunk is its first block's.
        if (parts.has_head && !parts.has_embedding && !offloads) of_chunk += share;
        kept += of_chunk;
        // The last block's output has been used.
        if (!offloads)
            in_backward += of_chunk - (parts.has_head && !parts.has_embedding ? share : 0);
        waiting = std::max(waiting, parts.blocks * sizes.kept_for_weights);
        whole.push_back(of_chunk);
        if (!parts.has_head) continue;
        head_at = whole.size() - 1;
        // The gradient that the head has made already. Where inputs of blocks are on the host, the
        // final norm's is still here.
        whole.back() += m.width + (offloads ? share : 0);
    }
    const std::vector<int64_t> alive_of_chunks = alive_at_peak(order, whole);
    const int64_t alive =
        std::accumulate(alive_of_chunks.begin(), alive_of_chunks.end(), int64_t{0});
    const int64_t put_off = put_off_by(config, stage, alive);
    const auto count = static_cast<int64_t>(chunks.size());
    if (put_off > 0 && waiting > 0)  // all blocks but one wait for their weight halves
        in_backward =
            count * (waiting - sizes.kept_for_weights + (offloads ? 0 : sizes.kept_by_block));
    const InputsHere here = offloads ? inputs_here(config, chunks, alive, sizes) : InputsHere{};
    // On its way meanwhile: the next micro-batch's input, or, where backward passes follow one
    // another, the gradient of its output.
    const bool follows = config.parallel.schedule == PipelineSchedule::gpipe;
    const bool receives = stage > 0 || count > 1;
    if (follows ? stage + 1 < config.parallel.pipeline : receives) in_backward += count * share;
    // All that are alive but the one at work: the head's, whose backward pass follows its forward
    // pass, or one of those of any chunk.
    const bool head_works = head_at && alive_of_chunks[*head_at] > 0;
    const int64_t at_work = head_works ? whole[*head_at] : kept / count;
    const int64_t all =
        std::inner_product(whole.begin(), whole.end(), alive_of_chunks.begin(), int64_t{0});
    const int64_t others =
        put_off > 0 ? (alive - put_off) * at_work + (put_off - 1) * waiting : all - at_work;
    const int64_t head = head_at ? head_elements(config) : 0;
    return element *
           (tokens * others + std::max(tokens * (kept / count + here.after_forward) + head,
                                       tokens * (in_backward / count + here.in_backward +
                                                 sizes.block_at_work + sizes.while_in_backward)));
}

}  // namespace plinth::launch
