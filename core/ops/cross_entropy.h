// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/ops/matmul.h"

namespace plinth::core::ops {

/// What a micro-batch's loss is made of. The division by the global weight happens once, in the
/// optimizer.
struct Loss {
    Tensor sum;  ///< f64 [1], what is differentiated, z-loss included; its gradient is a f32 [1]
    Tensor cross_entropy;  ///< f64 [1], what is reported: without the z-loss
    Tensor weight;         ///< i64 [1]: tokens counted
    Tensor correct;        ///< i64 [1]: tokens whose target has the largest logit
};

/// Ranks that hold the columns (the vocabulary) of one head together.
class ColumnRanks {
  public:
    virtual ~ColumnRanks() = default;
    /// Collective. parts fp32 [ranks, N] from this rank's `mine` [N], in rank order.
    virtual Tensor gather(const Tensor& mine) const = 0;
};

struct CrossEntropyOptions {
    int64_t valid_columns = 0;  ///< vocabulary without padding
    double z_loss = 0.0;
    const ColumnRanks* ranks = nullptr;  ///< null: this rank holds all columns
    /// Products of linear_cross_entropy take the weight's padded shape. What is behind the weight's
    /// rows changes nothing but the order of sums.
    bool pads_columns = false;
};

/// Cross-entropy of logits[..., V] against targets i32 [...], summed; targets of -100 are ignored.
/// While recording, the backward pass overwrites the logits with their gradient: nothing else may
/// read them later.
Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options);

/// cross_entropy(linear(x, weight), targets), where only the logits of `logit_rows_on` the device
/// exist at a time. While recording, the gradients are made right here, from a chunk's logits while
/// they exist (as Liger Kernel does, Hsu et al. 2024): the sum must be a root of the backward pass
/// with a gradient of 1, and weight gradients of all chunks are added in row order.
///
/// Where the weight's box is a part of the vocabulary, options.ranks are those with the other
/// parts: they give the same x and targets and get the same loss, each its own dweight and its
/// summand of dx.
Loss linear_cross_entropy(const Tensor& x, WeightUse weight, const Tensor& targets,
                          const CrossEntropyOptions& options);

/// A GPU's products want rows in multiples. Those of a CPU gain nothing, and there the padding of a
/// vocabulary changes no bit.
inline bool pads_columns_on(DeviceType device) {
    return device != DeviceType::cpu;
}

/// Part of the numerics: the order of sums over a micro-batch's tokens depends on it.
inline constexpr int64_t logit_rows = 1024;
/// A GPU needs more to be busy: the sum over chunks reads and writes the whole dweight each time.
inline constexpr int64_t device_logit_rows = 8192;
inline int64_t logit_rows_on(DeviceType device) {
    return device == DeviceType::cpu ? logit_rows : device_logit_rows;
}

}  // namespace plinth::core::ops
