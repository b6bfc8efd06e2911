// SPDX-License-Identifier: Apache-2.0
// Differentiable collectives: what stands where a tensor enters or leaves a computation that ranks
// share. The backward pass of each is the adjoint of its forward pass. Sums are fp32, folded in
// rank order and rounded once. Collective: every rank of the group calls the same ops in the same
// order, also in the backward pass. B batch, T tokens, t ranks, D width.
#pragma once

#include <span>
#include <string>

#include "core/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// y = x, equal on all ranks, for computations that each give a summand of the gradient. Backward:
/// dx = sum of dy over the ranks.
core::Tensor copy_to_group(const core::Tensor& x, Communicator& group, const std::string& label);

/// y = sum of x over the ranks, on all of them. Backward: dx = dy.
core::Tensor sum_over_group(const core::Tensor& x, Communicator& group, const std::string& label);

/// y [B, T, D] from the ranks' x [B, T/t, D], for computations that each give a summand of the
/// gradient. Backward: dx = this rank's tokens of the sum of dy. While the scope makes outputs
/// again, y has a recipe: whoever keeps it gathers once more in the backward pass.
core::Tensor gather_tokens(const core::Tensor& x, Communicator& group, const std::string& label);

/// y [B, T/t, D]: this rank's tokens of the sum of x [B, T, D] over the ranks. Backward: dx = dy
/// gathered.
core::Tensor scatter_sum_tokens(const core::Tensor& x, Communicator& group,
                                const std::string& label);

/// y [B, T, D] from the ranks' x [B, T/t, D], for computations that are the same on every rank and
/// count once. Backward: dx = this rank's tokens of dy.
core::Tensor gather_tokens_alike(const core::Tensor& x, Communicator& group,
                                 const std::string& label);

/// y [..., sum of N_r] from the ranks' x [..., N_r], side by side; `columns` are the N_r. Records
/// nothing: a tape is an error.
core::Tensor gather_columns(const core::Tensor& x, std::span<const int64_t> columns,
                            Communicator& group, const std::string& label);

}  // namespace plinth::parallel
