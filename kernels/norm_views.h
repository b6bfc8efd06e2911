// SPDX-License-Identifier: Apache-2.0
// What the checks of layer_norm and rms_norm share, on all devices.
#pragma once

#include "kernels/runtime/error.h"
#include "kernels/view.h"

namespace plinth::kernels {

inline bool is_like(const ConstView& a, const ConstView& x) {
    return a.elements() == x.elements() && a.dtype == x.dtype && a.is_contiguous();
}

/// sum and branch are both left out, or both like x.
inline void check_sum(const char* kernel, const ConstView& sum, const ConstView& x,
                      const ConstView& branch) {
    CHECK(branch ? is_like(branch, x) && is_like(sum, x) : !sum, "{}: sum {} of {} and {}", kernel,
          sum.shape.text(), x.shape.text(), branch.shape.text());
}

/// dsum is left out, or like x.
inline void check_dsum(const char* kernel, const ConstView& dsum, const ConstView& x) {
    CHECK(!dsum || is_like(dsum, x), "{}: dsum {} for {}", kernel, dsum.shape.text(),
          x.shape.text());
}

}  // namespace plinth::kernels
