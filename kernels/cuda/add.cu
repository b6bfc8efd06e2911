// SPDX-License-Identifier: Apache-2.0
#include "kernels/add.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/row_tiles.h"

namespace plinth::kernels::cuda {

namespace {

struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Product {
    float factor;
    __device__ float operator()(float x) const { return factor * x; }
};
struct Constant {
    float value;
    __device__ float operator()() const { return value; }
};

template <int width, typename T>
__device__ void add_to_vector(T* y, const Vector<T, width>& x, const float (&row)[width]) {
    Vector<T, width> out;
#pragma unroll
    for (int i = 0; i < width; ++i)
        out.values[i] = from_float<T>(to_float(x.values[i]) + row[i]);
    *reinterpret_cast<Vector<T, width>*>(y) = out;
}

/// y = x + row. Reads x and writes y once; each thread keeps its piece of the row for several rows.
template <int width, typename T>
__global__ void add_to_rows(T* y, const T* x, const float* row, int64_t rows, int64_t n) {
    constexpr int per_thread = RowTiles::rows_per_thread;
    const int64_t first = int64_t{blockIdx.x} * blockDim.y * per_thread + threadIdx.y;
    for (int64_t column = int64_t{threadIdx.x} * width; column < n;
         column += int64_t{blockDim.x} * width) {
        float each[width];
#pragma unroll
        for (int i = 0; i < width; ++i)
            each[i] = row[column + i];
        Vector<T, width> in[per_thread];
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t r = first + int64_t{k} * blockDim.y; r < rows)
                in[k] = *reinterpret_cast<const Vector<T, width>*>(x + r * n + column);
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t r = first + int64_t{k} * blockDim.y; r < rows)
                add_to_vector<width>(y + r * n + column, in[k], each);
    }
}

template <int width, typename T>
void launch_add_to_rows(T* y, const T* x, const float* row, int64_t rows, int64_t n, Queue& queue) {
    const RowTiles tiles(rows, n / width);
    const dim3 threads(static_cast<unsigned>(tiles.columns), static_cast<unsigned>(tiles.lanes));
    add_to_rows<width>
        <<<static_cast<unsigned>(tiles.blocks), threads, 0, queue.stream()>>>(y, x, row, rows, n);
    CUDA_CHECK_LAUNCH("add_row");
}

}  // namespace

void add(View y, ConstView a, ConstView b, Stream& stream) {
    check_same_elements("add", y, a);
    check_same_elements("add", y, b);
    with_device_float(y.dtype, "add", [&]<typename T>(T) {
        map("add", queue_of(stream), y.as<T>(), Sources<T, 2>{a.as<T>(), b.as<T>()}, y.elements(),
            Sum{});
    });
}

void add_row(View y, ConstView x, ConstView row, Stream& stream) {
    check_same_elements("add_row", y, x);
    const int64_t n = row.elements();
    CHECK(n > 0 && x.dim(-1) == n && row.is_contiguous(), "add_row: {} and a row of {}",
          x.shape.text(), n);
    const int64_t rows = x.shape.rows();
    if (rows == 0) return;
    with_device_float(y.dtype, "add_row", [&]<typename T>(T) {
        const auto launch = n % widest<T> == 0 && are_aligned({y.data, x.data})
                                ? &launch_add_to_rows<widest<T>, T>
                                : &launch_add_to_rows<1, T>;
        launch(y.as<T>(), x.as<T>(), row.as<float>(), rows, n, queue_of(stream));
    });
}

void scale(View y, ConstView x, float factor, Stream& stream) {
    check_same_elements("scale", y, x);
    with_device_float(y.dtype, "scale", [&]<typename T>(T) {
        map("scale", queue_of(stream), y.as<T>(), Sources<T, 1>{x.as<T>()}, y.elements(),
            Product{factor});
    });
}

void fill(View y, float value, Stream& stream) {
    CHECK(y.is_contiguous(), "fill of a strided view");
    with_device_float(y.dtype, "fill", [&]<typename T>(T) {
        map("fill", queue_of(stream), y.as<T>(), Sources<T, 0>{}, y.elements(), Constant{value});
    });
}

PLINTH_CUDA_KERNEL(add);
PLINTH_CUDA_KERNEL(add_row);
PLINTH_CUDA_KERNEL(scale);
PLINTH_CUDA_KERNEL(fill);

}  // namespace plinth::kernels::cuda
