// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_finish.h"
#include "kernels/fp8.h"

namespace plinth::kernels::cuda {

void fp8_matmul(View c, ConstView a, ConstView b, ConstView bias, ConstView scale_a,
                ConstView scale_b, Fp8Matmul options, Stream& stream) {
    check_fp8_matmul(c, a, b, bias, scale_a, scale_b, options);
    Queue& queue = queue_of(stream);
    if (c.elements() == 0) return;
    if (a.elements() == 0) return finish_product(c, nullptr, 0, bias, options.accumulate, queue);
    auto& library = queue.state<LibraryMatmul>();
    MatmulPlan plan = plan_fp8_matmul(c, a, b, bias, options, queue.options());
    PreparedMatmul* prepared = &library.prepare(plan.problem);
    if (prepared->candidates.empty()) {
        plan = plan_fp8_matmul(c, a, b, bias, options, queue.options(), true);
        prepared = &library.prepare(plan.problem);
    }
    run_plan(
        library, *prepared, plan,
        {.a = b.data, .b = a.data, .scale_a = scale_b.as<float>(), .scale_b = scale_a.as<float>()},
        c, bias, options.accumulate, queue);
}

PLINTH_CUDA_KERNEL(fp8_matmul);

}  // namespace plinth::kernels::cuda
