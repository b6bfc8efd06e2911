// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "core/tensor/tensor.h"
#include "kernels/dropout.h"

namespace plinth::core {

/// Tokens [first, first + count) of every sequence of a batch; by default all of them.
struct TokenSlice {
    int64_t first = 0;
    int64_t count = 0;  ///< 0: the whole sequence

    bool is_whole() const { return count == 0; }
};

/// Which tokens of every sequence a batch has where a group of ranks shares its sequences (context
/// parallel): two runs of equal length, the second one further on. By default all.
struct SequencePart {
    int64_t whole = 0;                  ///< tokens of a sequence; 0: the batch has all of them
    int64_t run = 0;                    ///< tokens of each run
    std::array<int64_t, 2> first = {};  ///< of the runs, in the sequence

    bool is_whole() const { return whole == 0; }
    /// Where the batch's token `token` stands in the sequence.
    int64_t position(int64_t token) const {
        return is_whole() ? token : token < run ? first[0] + token : first[1] + token - run;
    }
};

/// One micro-batch: B samples of T tokens. Models take positions from here, never from a local
/// length.
struct Batch {
    Tensor tokens;     ///< i32 [B, T]
    Tensor targets;    ///< i32 [B, T]; ignored_target where no loss is wanted
    Tensor positions;  ///< i32 [B, T], of each token in its sequence (or document, under a document
                       ///< mask)
    Tensor document_ids;  ///< i32 [B, tokens of the whole sequence], undefined without a document
                          ///< mask: attention stays within equal ids
    Tensor sample_ids;    ///< i64 [B], global sample numbers: they key dropout
    /// The tokens that this rank works on where a layer goes token by token: norms, dropout,
    /// residual sums. A part where a group of ranks shares that work (sequence parallel).
    TokenSlice slice = {};
    /// What the T tokens are of the whole sequences.
    SequencePart part = {};

    static constexpr int32_t ignored_target = -100;

    int64_t samples() const { return tokens.dim(0); }
    int64_t length() const { return tokens.dim(1); }
    /// Of the slice's elements, `width` a token, in the whole sample.
    kernels::ElementNumbers element_numbers(int64_t width) const;
};

/// [B, count] of i32 values [B, T].
Tensor tokens_in(const Tensor& values, const TokenSlice& slice);
/// [B, 2 run] of i32 values [B, T] of whole sequences.
Tensor tokens_of(const Tensor& values, const SequencePart& part);

}  // namespace plinth::core
