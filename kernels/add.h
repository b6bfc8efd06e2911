// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// y = a + b, element by element; all contiguous with the same number of elements and dtype (fp32
/// or bf16). y may be a or b.
PLINTH_KERNEL(add, View y, ConstView a, ConstView b);

/// y[..., N] = x[..., N] + row[N]; x and y fp32 or bf16, the row fp32. y may be x.
PLINTH_KERNEL(add_row, View y, ConstView x, ConstView row);

/// y = factor * x; y may be x.
PLINTH_KERNEL(scale, View y, ConstView x, float factor);

/// Every element = value.
PLINTH_KERNEL(fill, View y, float value);

}  // namespace plinth::kernels
