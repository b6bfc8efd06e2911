// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core {

/// Tokens [first, first + count) of every sequence of a batch; by default all of them.
struct TokenSlice {
    int64_t first = 0;
    int64_t count = 0;  ///< 0: the whole sequence

    bool is_whole() const { return count == 0; }
};

/// One micro-batch: B samples of T tokens. Models take positions from here, never from a local
/// length.
struct Batch {
    Tensor tokens;     ///< i32 [B, T]
    Tensor targets;    ///< i32 [B, T]; ignored_target where no loss is wanted
    Tensor positions;  ///< i32 [B, T], of each token in its sequence (or document, under a document
                       ///< mask)
    Tensor document_ids;  ///< i32 [B, T], undefined without a document mask: attention stays within
                          ///< equal ids
    Tensor sample_ids;    ///< i64 [B], global sample numbers: they key dropout
    /// The tokens that this rank works on where a layer goes token by token: norms, dropout,
    /// residual sums. A part where a group of ranks shares that work (sequence parallel).
    TokenSlice slice = {};

    static constexpr int32_t ignored_target = -100;

    int64_t samples() const { return tokens.dim(0); }
    int64_t length() const { return tokens.dim(1); }
};

/// [B, count] of i32 values [B, T].
Tensor tokens_in(const Tensor& values, const TokenSlice& slice);

}  // namespace plinth::core
