// SPDX-License-Identifier: Apache-2.0
// Attention of some tokens of a sequence over some others, one part after the other: what a ring of
// ranks that share the sequence makes of the keys and values that come by (Liu et al., "Ring
// Attention with Blockwise Transformers", 2023). B batch, N queries, M keys, H query heads, G
// key/value heads, K head width. Views of three dims may have rows that lie apart.
#pragma once

#include "kernels/attention.h"

namespace plinth::kernels {

/// Where queries and keys stand in their sequence: masks, ALiBi and dropout go by position.
struct AttentionPart {
    int64_t first_query = 0;  ///< position of query 0; the others follow
    int64_t first_key = 0;    ///< position of key 0; a multiple of four where there is dropout
    int64_t tokens = 0;       ///< of the sequence: mask.documents is [B, tokens]
    bool begins = false;      ///< the queries have met no keys before; forward only
};

/// y fp32 [B,N,H*K] and log_sum fp32 [B,H,N] hold the attention of the queries over the keys so
/// far, and afterwards that over those and k, v [B,M,G*K] too. A part that begins sets them. q is
/// [B,N,H*K]; q, k and v are fp32 or bf16. `options.random` numbers weights as attention_forward
/// does.
PLINTH_KERNEL(attention_part_forward, View y, View log_sum, ConstView q, ConstView k, ConstView v,
              AttentionMask mask, AttentionPart part, Attention options);

/// Adds the share of these keys to dq fp32 [B,N,H*K], and that of these queries to dk and dv fp32
/// [B,M,G*K]. y, in q's dtype, and log_sum are those over all keys.
PLINTH_KERNEL(attention_part_backward, View dq, View dk, View dv, ConstView dy, ConstView y,
              ConstView log_sum, ConstView q, ConstView k, ConstView v, AttentionMask mask,
              AttentionPart part, Attention options);

/// dqkv[B,N,(H + 2 G) K] = `own` fp32, of the same shape, with `others` fp32 [2,B,N,G*K] added to
/// its keys and values; `others` may be left out. Rounds to dqkv's dtype.
PLINTH_KERNEL(attention_part_join, View dqkv, ConstView own, ConstView others);

}  // namespace plinth::kernels
