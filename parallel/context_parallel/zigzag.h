// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/nn/batch.h"

namespace plinth::parallel {

/// Sequences are cut where a multiple of this many tokens lies: attention's random numbers come in
/// fours.
inline constexpr int64_t context_grain = 4;

/// Tokens that a sequence's length must be a multiple of, to be shared by `ranks` ranks.
constexpr int64_t context_multiple(int64_t ranks) {
    return ranks == 1 ? 1 : 2 * ranks * context_grain;
}

/// The tokens of rank `rank`: of 2 c chunks those number `rank` and, from the end, `rank` again
/// ("zigzag"). Under a causal mask every rank so has the same number of scores to compute, and in
/// each step of a ring as well. Pure arithmetic; one rank has the whole sequence.
core::SequencePart zigzag_part(int64_t length, int rank, int ranks);

}  // namespace plinth::parallel
