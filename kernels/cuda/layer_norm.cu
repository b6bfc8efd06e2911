// SPDX-License-Identifier: Apache-2.0
// D width.
#include "kernels/layer_norm.h"

#include "kernels/cuda/held_row.cuh"
#include "kernels/cuda/norm_backward.cuh"
#include "kernels/norm_views.h"

namespace plinth::kernels::cuda {

namespace {

// Moves one read and one write of the rows, with a branch two of each; a row's threads keep it in
// registers in between.
template <typename T, int N, int held>
__global__ void forward_rows(T* y, float* mean, float* rstd, T* sum, const T* x, const T* branch,
                             const float* weight, const float* bias, float eps, int64_t rows,
                             int width) {
    const int64_t r = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    RowShare<T, N, held> row(x + r * width, width / N, static_cast<int>(threadIdx.x),
                             static_cast<int>(blockDim.x));
    if (branch) row.add(sum + r * width, branch + r * width);
    float total = 0.0f;
    row.each([&](const Vector<T, N>& values, int64_t) {
#pragma unroll
        for (int j = 0; j < N; ++j)
            total += to_float(values.values[j]);
    });
    const float m = sum_over_row(total) / static_cast<float>(width);
    float squares = 0.0f;
    row.each([&](const Vector<T, N>& values, int64_t) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float d = to_float(values.values[j]) - m;
            squares = fmaf(d, d, squares);
        }
    });
    const float variance = sum_over_row(squares) / static_cast<float>(width);
    const float s = 1.0f / sqrtf(variance + eps);
    if (threadIdx.x == 0) {
        mean[r] = m;
        rstd[r] = s;
    }
    T* out = y + r * width;
    row.each([&](const Vector<T, N>& values, int64_t column) {
        const auto w = load<N>(weight + column);
        Vector<float, N> b{};
        if (bias) b = load<N>(bias + column);
        float normal[N];
#pragma unroll
        for (int j = 0; j < N; ++j)
            normal[j] = fmaf((to_float(values.values[j]) - m) * s, w.values[j], b.values[j]);
        store(out + column, rounded<T>(normal));
    });
}

void check_shapes(const char* kernel, ConstView rows, ConstView x, ConstView weight, ConstView mean,
                  ConstView rstd) {
    CHECK(rows.elements() == x.elements() && rows.is_contiguous() && x.is_contiguous(),
          "{}: shapes {} and {}", kernel, rows.shape.text(), x.shape.text());
    CHECK(weight.elements() == x.dim(-1) && mean.elements() == x.shape.rows() &&
              rstd.elements() == x.shape.rows() && rows.dtype == x.dtype,
          "{}: weight {} and statistics {}, {} for {}", kernel, weight.shape.text(),
          mean.shape.text(), rstd.shape.text(), x.shape.text());
}

}  // namespace

void layer_norm_forward(View y, View mean, View rstd, View sum, ConstView x, ConstView branch,
                        ConstView weight, ConstView bias, float eps, Stream& stream) {
    check_shapes("layer_norm_forward", y, x, weight, mean, rstd);
    check_sum("layer_norm_forward", sum, x, branch);
    CHECK(!bias || bias.elements() == x.dim(-1), "layer_norm_forward: bias {} for {}",
          bias.shape.text(), x.shape.text());
    if (x.elements() == 0) return;
    const float* w = weight.as<float>();
    const float* b = bias ? bias.as<float>() : nullptr;
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(x.dtype, "layer_norm_forward", [&]<typename T>(T) {
        const bool is_wide = is_aligned(x.data, 16) && is_aligned(y.data, 16) &&
                             is_aligned(sum.data, 16) && is_aligned(branch.data, 16) &&
                             is_aligned(w, 32) && is_aligned(b, 32);
        const RowLaunch launch = RowLaunch::of(x.dim(-1), sizeof(T), is_wide);
        with_row_launch<T>(launch, [&](auto n, auto held) {
            forward_rows<T, n(), held()>
                <<<launch.blocks(x.shape.rows()), launch.block(), 0, queue>>>(
                    y.as<T>(), mean.as<float>(), rstd.as<float>(), sum ? sum.as<T>() : nullptr,
                    x.as<T>(), branch ? branch.as<T>() : nullptr, w, b, eps, x.shape.rows(),
                    static_cast<int>(x.dim(-1)));
        });
    });
    CUDA_CHECK_LAUNCH("layer_norm_forward");
}

void layer_norm_backward(View dx, View dweight_blocks, View dbias_blocks, ConstView dy,
                         ConstView dsum, ConstView x, ConstView weight, ConstView mean,
                         ConstView rstd, Stream& stream) {
    check_shapes("layer_norm_backward", dy, x, weight, mean, rstd);
    check_dsum("layer_norm_backward", dsum, x);
    const int64_t n = x.dim(-1), rows = x.shape.rows();
    CHECK(dweight_blocks.elements() == norm_blocks(rows) * n &&
              (!dbias_blocks || dbias_blocks.elements() == norm_blocks(rows) * n) &&
              (!dx || (dx.elements() == x.elements() && dx.dtype == x.dtype)),
          "layer_norm_backward: {} and blocks {} for {}", dx.shape.text(),
          dweight_blocks.shape.text(), x.shape.text());
    if (x.elements() == 0) return;
    with_device_float(x.dtype, "layer_norm_backward", [&]<typename T>(T) {
        const NormGradient<T> arguments{
            .dx = dx ? dx.as<T>() : nullptr,
            .dweight_blocks = dweight_blocks.as<float>(),
            .dbias_blocks = dbias_blocks ? dbias_blocks.as<float>() : nullptr,
            .dy = dy.as<T>(),
            .dsum = dsum ? dsum.as<T>() : nullptr,
            .x = x.as<T>(),
            .weight = weight.as<float>(),
            .mean = mean.as<float>(),
            .rstd = rstd.as<float>(),
            .rows = rows,
            .width = static_cast<int>(n)};
        norm_backward<T, /*is_centred=*/true>(arguments, queue_of(stream));
    });
}

PLINTH_CUDA_KERNEL(layer_norm_forward);
PLINTH_CUDA_KERNEL(layer_norm_backward);

}  // namespace plinth::kernels::cuda
