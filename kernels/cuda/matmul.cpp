// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#include "kernels/matmul.h"

#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_finish.h"

namespace plinth::kernels::cuda {

void matmul(View c, ConstView a, ConstView b, ConstView bias, Matmul options, Stream& stream) {
    check_matmul(c, a, b, bias, options);
    Queue& queue = queue_of(stream);
    if (c.elements() == 0) return;
    if (a.elements() == 0)  // no inner extent
        return finish_product(c, nullptr, 0, bias, options.accumulate, queue);
    auto& library = queue.state<LibraryMatmul>();
    MatmulPlan plan = plan_matmul(c, a, b, bias, options, queue.options());
    PreparedMatmul* prepared = &library.prepare(plan.problem);
    if (prepared->candidates.empty()) {
        plan = plan_matmul(c, a, b, bias, options, queue.options(), true);
        prepared = &library.prepare(plan.problem);
    }
    run_plan(library, *prepared, plan, {.a = b.data, .b = a.data}, c, bias, options.accumulate,
             queue);
}

void save_matmul_algorithms(std::string& text, Stream& stream) {
    text = queue_of(stream).state<LibraryMatmul>().algorithms().save();
}

void count_matmul_algorithms(int64_t& count, Stream& stream) {
    count = static_cast<int64_t>(queue_of(stream).state<LibraryMatmul>().algorithms().size());
}

void load_matmul_algorithms(bool& is_taken, const std::string& text, Stream& stream) {
    is_taken = queue_of(stream).state<LibraryMatmul>().load_algorithms(text);
}

void let_matmul_be_timed(bool may_time, Stream& stream) {
    queue_of(stream).state<LibraryMatmul>().let_time(may_time);
}

PLINTH_CUDA_KERNEL(matmul);
PLINTH_CUDA_KERNEL(save_matmul_algorithms);
PLINTH_CUDA_KERNEL(count_matmul_algorithms);
PLINTH_CUDA_KERNEL(load_matmul_algorithms);
PLINTH_CUDA_KERNEL(let_matmul_be_timed);

}  // namespace plinth::kernels::cuda
