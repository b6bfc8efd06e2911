// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/row_tiles.h"

namespace plinth::kernels::cuda {

namespace {

/// Threads as RowTiles has them. Reads both halves of x and writes y once.
template <int width, typename T>
__global__ void __launch_bounds__(RowTiles::most_threads)
    forward_rows(T* y, const T* x, int64_t rows, int64_t f) {
    using Access = Vector<T, width>;
    constexpr int per_thread = RowTiles::rows_per_thread;
    const int64_t first = int64_t{blockIdx.x} * blockDim.y * per_thread + threadIdx.y;
    for (int64_t column = int64_t{threadIdx.x} * width; column < f;
         column += int64_t{blockDim.x} * width) {
        Access gate[per_thread], up[per_thread];
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t r = first + int64_t{k} * blockDim.y; r < rows) {
                const T* from = x + 2 * f * r + column;
                gate[k] = *reinterpret_cast<const Access*>(from);
                up[k] = *reinterpret_cast<const Access*>(from + f);
            }
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t r = first + int64_t{k} * blockDim.y; r < rows) {
                Access out;
#pragma unroll
                for (int i = 0; i < width; ++i)
                    out.values[i] = from_float<T>(
                        swiglu_of(to_float(gate[k].values[i]), to_float(up[k].values[i])));
                *reinterpret_cast<Access*>(y + f * r + column) = out;
            }
    }
}

/// Reads dy and both halves of x and writes both halves of dx once.
template <int width, typename T>
__global__ void __launch_bounds__(RowTiles::most_threads)
    backward_rows(T* dx, const T* dy, const T* x, int64_t rows, int64_t f) {
    using Access = Vector<T, width>;
    const int64_t first =
        int64_t{blockIdx.x} * blockDim.y * RowTiles::rows_per_thread + threadIdx.y;
    const int64_t end =
        min(rows, (int64_t{blockIdx.x} + 1) * blockDim.y * RowTiles::rows_per_thread);
    for (int64_t r = first; r < end; r += blockDim.y)
        for (int64_t column = int64_t{threadIdx.x} * width; column < f;
             column += int64_t{blockDim.x} * width) {
            const int64_t at = 2 * f * r + column;
            const auto d = *reinterpret_cast<const Access*>(dy + f * r + column);
            const auto gate = *reinterpret_cast<const Access*>(x + at);
            const auto up = *reinterpret_cast<const Access*>(x + at + f);
            Access dgate, dup;
#pragma unroll
            for (int i = 0; i < width; ++i) {
                const SwigluGradients gradients = swiglu_gradients(
                    to_float(d.values[i]), to_float(gate.values[i]), to_float(up.values[i]));
                dgate.values[i] = from_float<T>(gradients.gate);
                dup.values[i] = from_float<T>(gradients.up);
            }
            *reinterpret_cast<Access*>(dx + at) = dgate;
            *reinterpret_cast<Access*>(dx + at + f) = dup;
        }
}

/// Checks the shapes; returns F.
int64_t check_halves(const char* kernel, const ConstView& narrow, const ConstView& packed) {
    CHECK(packed.dim(-1) == 2 * narrow.dim(-1) && packed.elements() == 2 * narrow.elements() &&
              packed.dtype == narrow.dtype && packed.is_contiguous() && narrow.is_contiguous(),
          "{}: {} and packed {}", kernel, narrow.shape.text(), packed.shape.text());
    return narrow.dim(-1);
}

/// Calls launch with the elements an access takes, the blocks and their threads.
template <typename T, typename Launch>
void with_tiles(const char* kernel, int64_t rows, int64_t f, bool aligned, Launch&& launch) {
    const auto at_width = [&]<int width>(std::integral_constant<int, width> elements) {
        const RowTiles tiles(rows, f / width);
        launch(elements, static_cast<unsigned>(tiles.blocks),
               dim3(static_cast<unsigned>(tiles.columns), static_cast<unsigned>(tiles.lanes)));
    };
    if (aligned && f % widest<T> == 0)
        at_width(std::integral_constant<int, widest<T>>{});
    else
        at_width(std::integral_constant<int, 1>{});
    CUDA_CHECK_LAUNCH(kernel);
}

}  // namespace

void swiglu_forward(View y, ConstView x, Stream& stream) {
    const int64_t f = check_halves("swiglu_forward", y, x), rows = y.shape.rows();
    if (y.elements() == 0) return;
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(y.dtype, "swiglu_forward", [&]<typename T>(T) {
        with_tiles<T>(
            "swiglu_forward", rows, f, are_aligned({y.data, x.data}),
            [&]<int width>(std::integral_constant<int, width>, unsigned blocks, dim3 threads) {
                forward_rows<width><<<blocks, threads, 0, queue>>>(y.as<T>(), x.as<T>(), rows, f);
            });
    });
}

void swiglu_backward(View dx, ConstView dy, ConstView x, Stream& stream) {
    const int64_t f = check_halves("swiglu_backward", dy, x), rows = dy.shape.rows();
    check_halves("swiglu_backward", dy, dx);
    if (dy.elements() == 0) return;
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(dy.dtype, "swiglu_backward", [&]<typename T>(T) {
        with_tiles<T>(
            "swiglu_backward", rows, f, are_aligned({dx.data, dy.data, x.data}),
            [&]<int width>(std::integral_constant<int, width>, unsigned blocks, dim3 threads) {
                backward_rows<width>
                    <<<blocks, threads, 0, queue>>>(dx.as<T>(), dy.as<T>(), x.as<T>(), rows, f);
            });
    });
}

PLINTH_CUDA_KERNEL(swiglu_forward);
PLINTH_CUDA_KERNEL(swiglu_backward);

}  // namespace plinth::kernels::cuda
