// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// y = x in y's dtype (fp32 or bf16; to bf16 rounds to nearest even). Contiguous, same number of
/// elements.
PLINTH_KERNEL(cast, View y, ConstView x);

}  // namespace plinth::kernels
