// SPDX-License-Identifier: Apache-2.0
// Softmax attention without a T x T matrix: blocks of queries meet blocks of keys, and a running
// maximum and sum normalise the result (Milakov & Gimelshein, "Online normalizer calculation for
// softmax", 2018; Dao et al., "FlashAttention", 2022, and "FlashAttention-2", 2023).
// B batch, T tokens, H query heads, G key/value heads, K head width.
#pragma once

#include <vector>

#include "kernels/kernel.h"
#include "kernels/runtime/step_key.h"

namespace plinth::kernels {

struct Attention {
    int64_t heads = 1;
    int64_t kv_heads = 1;  ///< divides heads: query head h reads key/value head h / (H / G)
    float scale = 0.0f;    ///< of the scores; 0 stands for 1 / sqrt(K)
    bool causal = true;    ///< token t sees tokens 0..t only
    /// Of those it sees the last `window` only, itself included (Beltagy et al., "Longformer",
    /// 2020; Jiang et al., "Mistral 7B", 2023); 0: all. Only with `causal`.
    int64_t window = 0;
    /// Share of attention weights that are dropped, the others grow by 1 / (1 - dropout). Which
    /// ones is a function of (key, global sample, global head, query, key position).
    float dropout = 0.0f;
    StepKey random;
    int64_t first_head = 0;  ///< global number of the first query head held here
};

/// What decides, beside `causal`, which scores count; each view may be left out.
struct AttentionMask {
    ConstView slopes;     ///< fp32 [H]: ALiBi adds slope * (key position - query position)
    ConstView documents;  ///< i32 [B, T]: attention only within equal numbers
    ConstView samples;    ///< i64 [B]: global sample numbers; needed by dropout
};

/// y[B,T,H*K] = softmax(scale q k^T + mask) v, and the log of each row's sum of exponentials,
/// log_sum fp32 [B,H,T], which the backward pass needs.
/// qkv is [B, T, (H + 2 G) K], contiguous: all query heads, then all key heads, then all value
/// heads. qkv and y are fp32 or bf16; the arithmetic is fp32. A row that sees no key is zero.
PLINTH_KERNEL(attention_forward, View y, View log_sum, ConstView qkv, AttentionMask mask,
              Attention options);

/// dqkv, in the layout of qkv, from dy. Scores are computed again, block by block.
PLINTH_KERNEL(attention_backward, View dqkv, ConstView dy, ConstView y, ConstView log_sum,
              ConstView qkv, AttentionMask mask, Attention options);

/// Attention of new tokens over a cache: y[B,N,H*K] from q [B,N,>=H*K] (the first H*K columns of
/// each row), k and v [B, Tmax, G*K]. starts, i32 [B], counts the tokens before the new ones; the
/// keys and values of the new tokens are in the cache already, and those after them are not read.
/// Always causal, without dropout or documents. A row has the bits that attention_forward gives it,
/// but for the calls that matrix units of a GPU serve there (kernels/attention_choice.h).
PLINTH_KERNEL(attention_cached, View y, ConstView q, ConstView k, ConstView v, ConstView starts,
              ConstView slopes, Attention options);

/// ALiBi's slopes for any number of heads (Press et al., "Train Short, Test Long", 2022): with c
/// the largest power of two <= heads, 2^(-8j/c) for j = 1..c, then 2^(-4(2j-1)/c) for the rest.
std::vector<float> alibi_slopes(int64_t heads);

}  // namespace plinth::kernels
