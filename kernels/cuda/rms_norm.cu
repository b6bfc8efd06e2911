// SPDX-License-Identifier: Apache-2.0
// D width.
#include "kernels/rms_norm.h"

#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/held_row.cuh"
#include "kernels/cuda/norm_backward.cuh"
#include "kernels/norm_views.h"

namespace plinth::kernels::cuda {

namespace {

// Moves one read and one write of the rows, with a branch two of each; a row's threads keep it in
// registers in between.
template <typename T, int N, int held>
__global__ void forward_rows(T* y, float* rstd, T* sum, const T* x, const T* branch,
                             const float* weight, float eps, int64_t rows, int width) {
    const int64_t r = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    RowShare<T, N, held> row(x + r * width, width / N, static_cast<int>(threadIdx.x),
                             static_cast<int>(blockDim.x));
    if (branch) row.add(sum + r * width, branch + r * width);
    float squares = 0.0f;
    row.each([&](const Vector<T, N>& values, int64_t) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float value = to_float(values.values[j]);
            squares = fmaf(value, value, squares);
        }
    });
    const float mean_square = sum_over_row(squares) / static_cast<float>(width);
    const float s = 1.0f / sqrtf(mean_square + eps);
    if (threadIdx.x == 0) rstd[r] = s;
    T* out = y + r * width;
    row.each([&](const Vector<T, N>& values, int64_t column) {
        const auto w = load<N>(weight + column);
        float normal[N];
#pragma unroll
        for (int j = 0; j < N; ++j)
            normal[j] = to_float(values.values[j]) * s * w.values[j];
        store(out + column, rounded<T>(normal));
    });
}

void check_same_elements(const char* kernel, ConstView a, ConstView b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "{}: shapes {} and {}", kernel, a.shape.text(), b.shape.text());
}

}  // namespace

void rms_norm_forward(View y, View rstd, View sum, ConstView x, ConstView branch, ConstView weight,
                      double eps, Stream& stream) {
    check_same_elements("rms_norm_forward", y, x);
    check_sum("rms_norm_forward", sum, x, branch);
    const int64_t n = x.dim(-1), rows = x.shape.rows();
    CHECK(weight.elements() == n && rstd.elements() == rows, "rms_norm_forward: {} with weight {}",
          x.shape.text(), weight.shape.text());
    if (x.elements() == 0) return;
    const float* w = weight.as<float>();
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(x.dtype, "rms_norm_forward", [&]<typename T>(T) {
        const bool is_wide = is_aligned(x.data, 16) && is_aligned(y.data, 16) &&
                             is_aligned(sum.data, 16) && is_aligned(branch.data, 16) &&
                             is_aligned(w, 32);
        const RowLaunch launch = RowLaunch::of(n, sizeof(T), is_wide);
        with_row_launch<T>(launch, [&](auto width, auto held) {
            forward_rows<T, width(), held()><<<launch.blocks(rows), launch.block(), 0, queue>>>(
                y.as<T>(), rstd.as<float>(), sum ? sum.as<T>() : nullptr, x.as<T>(),
                branch ? branch.as<T>() : nullptr, w, static_cast<float>(eps), rows,
                static_cast<int>(n));
        });
    });
    CUDA_CHECK_LAUNCH("rms_norm_forward");
}

void rms_norm_backward(View dx, View dweight, ConstView dy, ConstView dsum, ConstView x,
                       ConstView weight, ConstView rstd, Stream& stream) {
    check_same_elements("rms_norm_backward", dy, x);
    check_dsum("rms_norm_backward", dsum, x);
    if (x.elements() == 0) return;
    Queue& queue = queue_of(stream);
    const int64_t rows = x.shape.rows(), n = x.dim(-1), blocks = norm_blocks(rows);
    float* sums = nullptr;  // [blocks, D], then what adding them needs
    if (dweight)
        sums = static_cast<float*>(queue.scratch(static_cast<size_t>(blocks * n) * sizeof(float) +
                                                 column_sum_scratch(blocks, n, sizeof(float))));
    with_device_float(x.dtype, "rms_norm_backward", [&]<typename T>(T) {
        const NormGradient<T> arguments{.dx = dx ? dx.as<T>() : nullptr,
                                        .dweight_blocks = sums,
                                        .dy = dy.as<T>(),
                                        .dsum = dsum ? dsum.as<T>() : nullptr,
                                        .x = x.as<T>(),
                                        .weight = weight.as<float>(),
                                        .rstd = rstd.as<float>(),
                                        .rows = rows,
                                        .width = static_cast<int>(n)};
        norm_backward<T, /*is_centred=*/false>(arguments, queue);
    });
    if (dweight) sum_columns<float>(dweight.as<float>(), sums, blocks, n, sums + blocks * n, queue);
}

PLINTH_CUDA_KERNEL(rms_norm_forward);
PLINTH_CUDA_KERNEL(rms_norm_backward);

}  // namespace plinth::kernels::cuda
