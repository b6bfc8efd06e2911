// SPDX-License-Identifier: Apache-2.0
#include "kernels/bias_grad.h"

#include "kernels/cuda/library_matmul.h"

namespace plinth::kernels::cuda {

// Of this module's other rows.
void matmul(View c, ConstView a, ConstView b, ConstView bias, Matmul options, Stream& stream);
void column_sum(View dbias, ConstView dy, Stream& stream);
void matmul_gelu_backward(View dpre, ConstView a, ConstView b, ConstView pre, Gelu form,
                          Matmul options, Stream& stream);
void cast(View y, ConstView x, Stream& stream);

namespace {

void check_dbias(const char* kernel, const View& dbias, int64_t features) {
    CHECK(dbias.elements() == features && dbias.dtype == DType::f32 &&
              alignment_of(dbias.data, 16) == 16,
          "{}: dbias {} {} of {} features", kernel, name_of(dbias.dtype), dbias.shape.text(),
          features);
}

/// By the library alone: where the sums are, or null where it has no algorithm, and nothing was
/// done. `sums` more bytes of scratch take them where memory names no place.
void* run_in_scratch(const MatmulPlan& plan, MatmulMemory memory, size_t sums, Queue& queue) {
    auto& library = queue.state<LibraryMatmul>();
    PreparedMatmul& prepared = library.prepare(plan.problem);
    if (prepared.candidates.empty()) return nullptr;
    const size_t workspace = (prepared.workspace_bytes() + 255) / 256 * 256;
    if (workspace + sums > 0) {
        auto* scratch = static_cast<std::byte*>(queue.scratch(workspace + sums));
        if (workspace > 0) memory.workspace = scratch;
        if (sums > 0) memory.bias_grad = scratch + workspace;
    }
    library.run(prepared, memory);
    return memory.bias_grad;
}

}  // namespace

void linear_grads(View dweight, View dbias, ConstView dy, ConstView x, Stream& stream) {
    const Matmul options{.transpose_a = true};
    check_matmul(dweight, dy, x, {}, options);
    check_dbias("linear_grads", dbias, dweight.dim(0));
    Queue& queue = queue_of(stream);
    CHECK(dweight.dtype == DType::f32, "linear_grads: dweight is fp32");
    if (!queue.options().reproducible && dweight.elements() > 0 && dy.elements() > 0) {
        MatmulPlan plan = plan_matmul(dweight, dy, x, {}, options, queue.options());
        plan.problem.has_bias_grad = true;
        if (run_in_scratch(plan,
                           {.a = x.data, .b = dy.data, .d = dweight.data, .bias_grad = dbias.data},
                           0, queue))
            return;
    }
    matmul(dweight, dy, x, {}, options, stream);
    column_sum(dbias, dy, stream);
}

void gelu_linear_grads(View dpre, View dbias, ConstView dy, ConstView weight, ConstView pre,
                       Stream& stream) {
    check_matmul(dpre, dy, weight, {}, {});
    check_dbias("gelu_linear_grads", dbias, dpre.dim(1));
    Queue& queue = queue_of(stream);
    std::optional<MatmulPlan> plan;
    if (!queue.options().reproducible && dpre.elements() > 0)
        plan = plan_matmul_gelu_backward(dpre, dy, weight, pre, Gelu::tanh, {}, queue.options());
    if (plan) {
        plan->problem.has_bias_grad = true;
        const size_t bytes = static_cast<size_t>(dbias.elements()) * size_of(dpre.dtype);
        if (void* sums = run_in_scratch(
                *plan, {.a = weight.data, .b = dy.data, .d = dpre.data, .aux = pre.data}, bytes,
                queue))
            return cast(dbias, View(sums, dpre.dtype, dbias.shape, dbias.device), stream);
    }
    matmul_gelu_backward(dpre, dy, weight, pre, Gelu::tanh, {}, stream);
    column_sum(dbias, dpre, stream);
}

PLINTH_CUDA_KERNEL(linear_grads);
PLINTH_CUDA_KERNEL(gelu_linear_grads);

}  // namespace plinth::kernels::cuda
