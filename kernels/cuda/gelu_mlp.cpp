// SPDX-License-Identifier: Apache-2.0
// By the library's epilogues where it has them, which saves a pass over pre and h or dpre; else by
// a product and a kernel. Its bias gradients are left aside: they have dpre's type, and a sum over
// all tokens wants fp32.
#include "kernels/gelu_mlp.h"

#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_finish.h"

namespace plinth::kernels::cuda {

// Of this module's other rows.
void matmul(View c, ConstView a, ConstView b, ConstView bias, Matmul options, Stream& stream);
void gelu_forward(View y, ConstView x, Gelu form, Stream& stream);
void gelu_backward(View dx, ConstView dy, ConstView x, Gelu form, Stream& stream);

namespace {

void check_packed(const char* kernel, const ConstView& a, const ConstView& b) {
    CHECK(a.shape == b.shape && a.dtype == b.dtype && a.is_contiguous() && b.is_contiguous(),
          "{}: shapes {} and {}", kernel, a.shape.text(), b.shape.text());
}

/// False if the library has no algorithm for it; then nothing was done.
bool run_by_library(const std::optional<MatmulPlan>& plan, MatmulMemory memory, Queue& queue) {
    if (!plan) return false;
    auto& library = queue.state<LibraryMatmul>();
    PreparedMatmul& prepared = library.prepare(plan->problem);
    if (prepared.candidates.empty()) return false;
    const MatmulProblem& p = plan->problem;
    const size_t workspace = (prepared.workspace_bytes() + 255) / 256 * 256;
    const size_t bias = plan->copies_bias ? static_cast<size_t>(p.m) * bytes_of(p.d) : 0;
    if (workspace + bias > 0) {
        auto* scratch = static_cast<std::byte*>(queue.scratch(workspace + bias));
        if (workspace > 0) memory.workspace = scratch;
        if (bias > 0) {
            void* copied = scratch + workspace;
            copy_bias(copied, DType::bf16, static_cast<const float*>(memory.bias), p.m, queue);
            memory.bias = copied;
        }
    }
    library.run(prepared, memory);
    return true;
}

}  // namespace

void matmul_gelu(View h, View pre, ConstView a, ConstView b, ConstView bias, Gelu form,
                 Matmul options, Stream& stream) {
    CHECK(!options.accumulate && h.data != pre.data, "matmul_gelu: writes two tensors of its own");
    check_matmul(pre, a, b, bias, options);
    check_packed("matmul_gelu", h, pre);
    if (h.elements() == 0) return;
    Queue& queue = queue_of(stream);
    if (run_by_library(plan_matmul_gelu(h, pre, a, b, bias, form, options, queue.options()),
                       {.a = b.data, .b = a.data, .d = h.data, .bias = bias.data, .aux = pre.data},
                       queue))
        return;
    matmul(pre, a, b, bias, options, stream);
    gelu_forward(h, pre, form, stream);
}

void matmul_gelu_backward(View dpre, ConstView a, ConstView b, ConstView pre, Gelu form,
                          Matmul options, Stream& stream) {
    CHECK(!options.accumulate && dpre.data != pre.data,
          "matmul_gelu_backward: writes a tensor of its own");
    check_matmul(dpre, a, b, {}, options);
    check_packed("matmul_gelu_backward", dpre, pre);
    if (dpre.elements() == 0) return;
    Queue& queue = queue_of(stream);
    if (run_by_library(plan_matmul_gelu_backward(dpre, a, b, pre, form, options, queue.options()),
                       {.a = b.data, .b = a.data, .d = dpre.data, .aux = pre.data}, queue))
        return;
    matmul(dpre, a, b, {}, options, stream);
    gelu_backward(dpre, dpre, pre, form, stream);
}

PLINTH_CUDA_KERNEL(matmul_gelu);
PLINTH_CUDA_KERNEL(matmul_gelu_backward);

}  // namespace plinth::kernels::cuda
