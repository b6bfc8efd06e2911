// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#include "kernels/matmul.h"

#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_finish.h"

namespace plinth::kernels::cuda {

namespace {

/// Parts of a call's scratch, each 256-byte aligned.
struct ScratchSizes {
    size_t workspace = 0, bias = 0, product = 0, trial = 0;

    static size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }
    size_t all() const {
        return rounded(workspace) + rounded(bias) + rounded(product) + rounded(trial);
    }
};

/// The plan that the library takes: the direct one, else the one through scratch.
PreparedMatmul& prepare(LibraryMatmul& library, MatmulPlan& plan, const View& c, const ConstView& a,
                        const ConstView& b, const ConstView& bias, const Matmul& options,
                        const StreamOptions& stream) {
    plan = plan_matmul(c, a, b, bias, options, stream);
    PreparedMatmul* matmul = &library.prepare(plan.problem);
    if (matmul->candidates.empty() && !plan.is_finished_apart) {
        plan = plan_matmul(c, a, b, bias, options, stream, true);
        matmul = &library.prepare(plan.problem);
    }
    return *matmul;
}

}  // namespace

void matmul(View c, ConstView a, ConstView b, ConstView bias, Matmul options, Stream& stream) {
    check_matmul(c, a, b, bias, options);
    Queue& queue = queue_of(stream);
    const int64_t m = c.dim(0), n = c.dim(1);
    if (m == 0 || n == 0) return;
    if (a.dim(options.transpose_a ? 0 : 1) == 0)
        return finish_product(c, nullptr, 0, bias, options.accumulate, queue);

    auto& library = queue.state<LibraryMatmul>();
    MatmulPlan plan;
    PreparedMatmul& prepared = prepare(library, plan, c, a, b, bias, options, queue.options());
    ScratchSizes sizes{.workspace = prepared.workspace_bytes(), .trial = prepared.trial_bytes()};
    if (plan.copies_bias) sizes.bias = static_cast<size_t>(n) * size_of(c.dtype);
    if (plan.is_finished_apart)
        sizes.product = static_cast<size_t>(m * plan.problem.ldd) * sizeof(float);
    auto* scratch = static_cast<std::byte*>(sizes.all() > 0 ? queue.scratch(sizes.all()) : nullptr);
    const auto carve = [&scratch](size_t bytes) -> void* {
        if (bytes == 0) return nullptr;
        void* part = scratch;
        scratch += ScratchSizes::rounded(bytes);
        return part;
    };
    MatmulMemory memory{.a = b.data, .b = a.data, .d = c.data, .bias = bias.data};
    memory.workspace = carve(sizes.workspace);
    if (void* copied = carve(sizes.bias)) {
        copy_bias(copied, c.dtype, bias.as<float>(), n, queue);
        memory.bias = copied;
    }
    if (void* product = carve(sizes.product)) memory.d = product;
    memory.trial = carve(sizes.trial);
    library.run(prepared, memory);
    if (plan.is_finished_apart)
        finish_product(c, static_cast<const float*>(memory.d), plan.problem.ldd, bias,
                       options.accumulate, queue);
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
