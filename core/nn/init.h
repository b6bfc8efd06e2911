// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"
#include "core/autograd/scope.h"

namespace plinth::core::nn {

/// Fills the parameter's local master weights by its init rule. Element i of the global tensor
/// depends on (seed, name, i) alone, so any layout starts from the same bits. Normal values come
/// from the Box-Muller transform of Philox words.
void initialize(Parameter& parameter, uint64_t seed, Stream& stream);
/// The same for the elements of its local memory from `begin` on, into `values` (fp32, contiguous).
void initialize(const Parameter& parameter, int64_t begin, View values, uint64_t seed,
                Stream& stream);

}  // namespace plinth::core::nn
