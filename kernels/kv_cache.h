// SPDX-License-Identifier: Apache-2.0
// B batch, N new tokens, M capacity, H query heads, G key/value heads, K head width.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// Copies the keys and values of new tokens into caches k and v [B, M, G*K], sequence b from row
/// starts[b] (i32 [B]) on. qkv is [B, N, (H + 2 G) K]; one dtype. A sequence that would pass the
/// capacity is an internal error.
PLINTH_KERNEL(kv_cache_append, View k, View v, ConstView qkv, ConstView starts);

}  // namespace plinth::kernels
