// SPDX-License-Identifier: Apache-2.0
#include "kernels/qk_norm.h"

#include "kernels/cuda/elementwise.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, tokens_per_block = 16, most_lanes = 32;
/// Blocks of sums are added by so many warps side by side.
constexpr int adding_warps = 32;

/// One token's query heads lie before its key heads; together they are `normed` heads.
struct Extents {
    int64_t tokens, columns;
    int width, heads, normed, kv_heads;

    Extents(const ConstView& qkv, const ConstView& rstd, const QkNorm& options) {
        const int64_t all = options.heads + 2 * options.kv_heads;
        const int64_t head_width = qkv.dim(-1) / std::max<int64_t>(1, all);
        const int64_t rows = qkv.shape.rows();
        CHECK(head_width > 0 && head_width * all == qkv.dim(-1) &&
                  rstd.elements() == rows * (options.heads + options.kv_heads),
              "qk_norm: qkv {} and rstd {} do not fit {} query and {} key/value heads",
              qkv.shape.text(), rstd.shape.text(), options.heads, options.kv_heads);
        CHECK(rows * all < int64_t{1} << 31, "qk_norm on CUDA: {} heads", rows * all);
        tokens = rows;
        columns = qkv.dim(-1);
        width = static_cast<int>(head_width);
        heads = static_cast<int>(options.heads);
        normed = static_cast<int>(options.heads + options.kv_heads);
        kv_heads = static_cast<int>(options.kv_heads);
    }
    bool fits(const ConstView& weight) const { return weight.elements() == width; }
};

/// Lanes that share a head of so many vectors: a power of two.
int lanes_for(int vectors) {
    int lanes = 1;
    while (lanes < vectors && lanes < most_lanes)
        lanes *= 2;
    return lanes;
}

/// Sum over groups of `lanes` neighbours in a fixed order; each gets its group's.
__device__ float group_sum(float value, int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/// Which head a group of lanes has, among `per_token` of each token. Groups past the last take the
/// last, so that whole warps meet in group_sum, and store nothing.
struct Place {
    int64_t token, at;  ///< of its first element
    int head, lane;
    bool is_real;

    __device__ Place(const Extents& extents, int per_token, int lanes) {
        const auto thread = int64_t{blockIdx.x} * threads + threadIdx.x;
        const int64_t groups = extents.tokens * per_token;
        is_real = thread / lanes < groups;
        const auto group = static_cast<uint32_t>(min(thread / lanes, groups - 1));
        token = group / static_cast<uint32_t>(per_token);
        head = static_cast<int>(group % static_cast<uint32_t>(per_token));
        at = token * extents.columns + int64_t{head} * extents.width;
        lane = static_cast<int>(threadIdx.x) % lanes;
    }
};

template <int width, typename T>
__device__ Vector<T, width> vector_at(const T* data) {
    return *reinterpret_cast<const Vector<T, width>*>(data);
}

template <int width, typename T>
__device__ void copy_head(T* to, const T* from, int n, int lane, int lanes) {
    for (int i = lane * width; i < n; i += lanes * width)
        *reinterpret_cast<Vector<T, width>*>(to + i) = vector_at<width>(from + i);
}

/// A group of lanes has a head. Reads the heads (the second time from the cache) and writes them
/// once.
template <int width, typename T>
__global__ void __launch_bounds__(threads)
    norm_heads(T* y, float* rstd, const T* qkv, const float* q_weight, const float* k_weight,
               float eps, Extents extents, int per_token, int lanes) {
    const Place place(extents, per_token, lanes);
    const int n = extents.width;
    const T* x = qkv + place.at;
    const bool is_value = place.head >= extents.normed;
    float sum = 0.0f;
    if (!is_value)
        for (int i = place.lane * width; i < n; i += lanes * width) {
            const auto in = vector_at<width>(x + i);
#pragma unroll
            for (int k = 0; k < width; ++k)
                sum = fmaf(to_float(in.values[k]), to_float(in.values[k]), sum);
        }
    const float scale = 1.0f / sqrtf(group_sum(sum, lanes) / static_cast<float>(n) + eps);
    if (!place.is_real) return;
    T* to = y + place.at;
    if (is_value) return copy_head<width>(to, x, n, place.lane, lanes);
    if (place.lane == 0) rstd[place.token * extents.normed + place.head] = scale;
    const float* weight = place.head < extents.heads ? q_weight : k_weight;
    for (int i = place.lane * width; i < n; i += lanes * width) {
        const auto in = vector_at<width>(x + i);
        Vector<T, width> out;
#pragma unroll
        for (int k = 0; k < width; ++k)
            out.values[k] = from_float<T>(to_float(in.values[k]) * scale * weight[i + k]);
        *reinterpret_cast<Vector<T, width>*>(to + i) = out;
    }
}

/// The same for the gradient: reads dy and qkv, writes dqkv.
template <int width, typename T>
__global__ void __launch_bounds__(threads)
    input_gradients(T* dqkv, const T* dy, const T* qkv, const float* rstd, const float* q_weight,
                    const float* k_weight, Extents extents, int per_token, int lanes) {
    const Place place(extents, per_token, lanes);
    const int n = extents.width;
    const T *x = qkv + place.at, *gradient = dy + place.at;
    const bool is_value = place.head >= extents.normed;
    const float* weight = place.head < extents.heads ? q_weight : k_weight;
    const float scale = is_value ? 0.0f : rstd[place.token * extents.normed + place.head];
    float sum = 0.0f;
    if (!is_value)
        for (int i = place.lane * width; i < n; i += lanes * width) {
            const auto in = vector_at<width>(x + i), d = vector_at<width>(gradient + i);
#pragma unroll
            for (int k = 0; k < width; ++k)
                sum = fmaf(to_float(d.values[k]) * weight[i + k], to_float(in.values[k]) * scale,
                           sum);
        }
    const float mean = group_sum(sum, lanes) / static_cast<float>(n);
    if (!place.is_real) return;
    T* to = dqkv + place.at;
    if (is_value) return copy_head<width>(to, gradient, n, place.lane, lanes);
    for (int i = place.lane * width; i < n; i += lanes * width) {
        const auto in = vector_at<width>(x + i), d = vector_at<width>(gradient + i);
        Vector<T, width> out;
#pragma unroll
        for (int k = 0; k < width; ++k) {
            const float scaled = to_float(in.values[k]) * scale;
            out.values[k] =
                from_float<T>(scale * (to_float(d.values[k]) * weight[i + k] - scaled * mean));
        }
        *reinterpret_cast<Vector<T, width>*>(to + i) = out;
    }
}

/// parts[block, K] = the sums of a block of tokens over `heads` heads from `first_head` on. Lanes
/// are neighbours on a head, and the block's other threads take other heads; their sums are added
/// in a fixed order. Reads the heads' dy and x once.
template <int width, typename T>
__global__ void __launch_bounds__(threads)
    sum_weight_gradients(float* parts, const T* dy, const T* qkv, const float* rstd,
                         Extents extents, int first_head, int heads, int lanes) {
    __shared__ float sums[threads * width];
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    const int group = static_cast<int>(threadIdx.x) / lanes, groups = threads / lanes;
    const int column = (static_cast<int>(blockIdx.y) * lanes + lane) * width;
    const int64_t token = int64_t{blockIdx.x} * tokens_per_block;
    const auto tokens = static_cast<int>(min(int64_t{tokens_per_block}, extents.tokens - token));
    float sum[width] = {};
    if (column < extents.width) {
#pragma unroll 4
        for (int i = group; i < tokens * heads; i += groups) {
            const int64_t t = token + i / heads;
            const int head = first_head + i % heads;
            const int64_t at = t * extents.columns + int64_t{head} * extents.width + column;
            const auto d = vector_at<width>(dy + at), in = vector_at<width>(qkv + at);
            const float scale = rstd[t * extents.normed + head];
#pragma unroll
            for (int k = 0; k < width; ++k)
                sum[k] = fmaf(to_float(d.values[k]), to_float(in.values[k]) * scale, sum[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < width; ++k)
        sums[(group * lanes + lane) * width + k] = sum[k];
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < lanes * width; i += threads) {
        const int to = static_cast<int>(blockIdx.y) * lanes * width + i;
        if (to >= extents.width) continue;
        float total = 0.0f;
        for (int g = 0; g < groups; ++g)
            total += sums[g * lanes * width + i];
        parts[int64_t{blockIdx.x} * extents.width + to] = total;
    }
}

/// dweight[K] = the sum of `blocks` rows of parts: warp w adds rows w, w + adding_warps, ... of 32
/// columns, then the warps' sums are added in their order.
__global__ void __launch_bounds__(adding_warps * 32)
    add_parts(float* dweight, const float* parts, int64_t blocks, int n) {
    __shared__ float sums[adding_warps][32];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int column = static_cast<int>(blockIdx.x) * 32 + lane;
    float sum = 0.0f;
    if (column < n)
        for (int64_t block = warp; block < blocks; block += adding_warps)
            sum += parts[block * n + column];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= n) return;
    float total = 0.0f;
    for (int w = 0; w < adding_warps; ++w)
        total += sums[w][lane];
    dweight[column] = total;
}

/// Calls launch with the elements an access takes and the lanes that share a head.
template <typename T, typename Launch>
void with_lanes(const char* kernel, int n, bool aligned, Launch&& launch) {
    if (aligned && n % widest<T> == 0)
        launch(std::integral_constant<int, widest<T>>{}, lanes_for(n / widest<T>));
    else
        launch(std::integral_constant<int, 1>{}, lanes_for(n));
    CUDA_CHECK_LAUNCH(kernel);
}

}  // namespace

void qk_norm_forward(View y, View rstd, ConstView qkv, ConstView q_weight, ConstView k_weight,
                     QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_forward", y, qkv);
    const Extents extents(qkv, rstd, options);
    CHECK(extents.fits(q_weight) && extents.fits(k_weight),
          "qk_norm_forward: weights {} and {} for heads of width {}", q_weight.shape.text(),
          k_weight.shape.text(), extents.width);
    if (extents.tokens == 0) return;
    const int per_token = extents.normed + (y.data == qkv.data ? 0 : extents.kv_heads);
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(qkv.dtype, "qk_norm_forward", [&]<typename T>(T) {
        with_lanes<T>("qk_norm_forward", extents.width, are_aligned({y.data, qkv.data}),
                      [&]<int width>(std::integral_constant<int, width>, int lanes) {
                          norm_heads<width>
                              <<<blocks_for(extents.tokens * per_token * lanes, threads), threads,
                                 0, queue>>>(y.as<T>(), rstd.as<float>(), qkv.as<T>(),
                                             q_weight.as<float>(), k_weight.as<float>(),
                                             static_cast<float>(options.eps), extents, per_token,
                                             lanes);
                      });
    });
}

void qk_norm_input_grad(View dqkv, ConstView dy, ConstView qkv, ConstView rstd, ConstView q_weight,
                        ConstView k_weight, QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_input_grad", dqkv, qkv);
    check_same_elements("qk_norm_input_grad", dy, qkv);
    const Extents extents(qkv, rstd, options);
    if (extents.tokens == 0) return;
    const int per_token = extents.normed + (dqkv.data == dy.data ? 0 : extents.kv_heads);
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(qkv.dtype, "qk_norm_input_grad", [&]<typename T>(T) {
        with_lanes<T>(
            "qk_norm_input_grad", extents.width, are_aligned({dqkv.data, dy.data, qkv.data}),
            [&]<int width>(std::integral_constant<int, width>, int lanes) {
                input_gradients<width><<<blocks_for(extents.tokens * per_token * lanes, threads),
                                         threads, 0, queue>>>(
                    dqkv.as<T>(), dy.as<T>(), qkv.as<T>(), rstd.as<float>(), q_weight.as<float>(),
                    k_weight.as<float>(), extents, per_token, lanes);
            });
    });
}

void qk_norm_weight_grad(View dweight, ConstView dy, ConstView qkv, ConstView rstd, bool of_keys,
                         QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_weight_grad", dy, qkv);
    const Extents extents(qkv, rstd, options);
    CHECK(extents.fits(dweight), "qk_norm_weight_grad: {} for heads of width {}",
          dweight.shape.text(), extents.width);
    Queue& queue = queue_of(stream);
    const int n = extents.width, first_head = of_keys ? extents.heads : 0;
    const int heads = of_keys ? extents.kv_heads : extents.heads;
    const int64_t blocks = (extents.tokens + tokens_per_block - 1) / tokens_per_block;
    if (blocks == 0) return queue.set_zero(dweight.data, dweight.bytes());
    auto* parts =
        static_cast<float*>(queue.scratch(static_cast<size_t>(blocks * n) * sizeof(float)));
    with_device_float(qkv.dtype, "qk_norm_weight_grad", [&]<typename T>(T) {
        with_lanes<T>("qk_norm_weight_grad", n, are_aligned({dy.data, qkv.data}),
                      [&]<int width>(std::integral_constant<int, width>, int lanes) {
                          const dim3 grid(static_cast<unsigned>(blocks),
                                          blocks_for(n, lanes, width));
                          sum_weight_gradients<width><<<grid, threads, 0, queue.stream()>>>(
                              parts, dy.as<T>(), qkv.as<T>(), rstd.as<float>(), extents, first_head,
                              heads, lanes);
                      });
    });
    add_parts<<<blocks_for(n, 32), adding_warps * 32, 0, queue.stream()>>>(dweight.as<float>(),
                                                                           parts, blocks, n);
    CUDA_CHECK_LAUNCH("qk_norm_weight_grad");
}

PLINTH_CUDA_KERNEL(qk_norm_forward);
PLINTH_CUDA_KERNEL(qk_norm_input_grad);
PLINTH_CUDA_KERNEL(qk_norm_weight_grad);

}  // namespace plinth::kernels::cuda
