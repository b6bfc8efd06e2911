// SPDX-License-Identifier: Apache-2.0
#include "launch/peak_flops.h"

#include <algorithm>

#include "kernels/add.h"
#include "kernels/matmul.h"

namespace plinth::launch {

double measured_peak_flops(Session& session, DType dtype) {
    constexpr int64_t m = 512, n = 768, k = 768;
    const core::Scope scope(session.scope(dtype));
    core::Tensor a = scope.empty({m, k}, dtype), b = scope.empty({n, k}, dtype),
                 c = scope.empty({m, n}, dtype);
    kernels::fill(a.out(), 0.5f, session.stream());
    kernels::fill(b.out(), 0.25f, session.stream());
    double best = 0.0;
    for (int i = 0; i < 4; ++i) {
        const double began = session.seconds();
        kernels::matmul(c.out(), a.in(), b.in(), {}, {.transpose_b = true}, session.stream());
        const double seconds = std::max(1e-9, session.seconds() - began);
        best = std::max(best, 2.0 * static_cast<double>(m * n * k) / seconds);
    }
    return best;
}

}  // namespace plinth::launch
