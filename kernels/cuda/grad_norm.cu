// SPDX-License-Identifier: Apache-2.0
#include "kernels/grad_norm.h"

#include "kernels/cuda/block_table.cuh"
#include "kernels/cuda/held_row.cuh"
#include "kernels/exact_sum.h"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr int width = 4, vectors = norm_block / width / 32;  // a lane's of one block
constexpr int limbs = ExactSum::limb_count;

using Limb = unsigned long long;  // what 64-bit atomics take

struct Gradient {
    const float* x;
    double* sums;
    int64_t n;
    bool is_aligned_to_vectors;
};

// Moves one read of the gradients. A warp takes a block of 1,024 elements.
__global__ void __launch_bounds__(threads)
    sum_squares(const __grid_constant__ BlockTable<Gradient> table) {
    const int at = table.range_of(blockIdx.x);
    const Gradient& gradient = table.ranges[at];
    const float* x = gradient.x;
    const int64_t n = gradient.n;
    const int64_t block = int64_t{blockIdx.x - table.first_block[at]} * warps + threadIdx.x / 32;
    const int64_t first = block * norm_block;
    if (first >= n) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    double sum = 0.0;
    const auto add = [&](float value) {
        sum = fma(static_cast<double>(value), static_cast<double>(value), sum);
    };
    if (gradient.is_aligned_to_vectors && first + norm_block <= n) {
        Vector<float, width> values[vectors];
#pragma unroll
        for (int i = 0; i < vectors; ++i)
            values[i] = load<width>(x + first + (i * 32 + lane) * width);
#pragma unroll
        for (int i = 0; i < vectors; ++i)
#pragma unroll
            for (int j = 0; j < width; ++j)
                add(values[i].values[j]);
    } else {
        // The same lanes as above take the same elements.
        for (int i = 0; i < vectors; ++i)
            for (int j = 0; j < width; ++j) {
                const int64_t at = first + (i * 32 + lane) * width + j;
                if (at < n) add(x[at]);
            }
    }
    sum = warp_sum(sum);
    if (lane == 0) gradient.sums[block] = sum;
}

/// Adds the words of a warp's doubles to the limbs. Doubles of like size share their limbs: those
/// are added within the warp first, for one atomic addition instead of 32.
__device__ void add_to_limbs(Limb* to, const ExactParts& parts, bool is_counted) {
    unsigned waiting = __ballot_sync(0xffffffffu, is_counted);
    while (waiting != 0) {
        const int leader = __ffs(static_cast<int>(waiting)) - 1;
        const int limb = __shfl_sync(0xffffffffu, parts.limb, leader);
        const bool is_mine = is_counted && parts.limb == limb;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const Limb sum = warp_sum(is_mine ? Limb{parts.words[i]} : Limb{0});
            if (sum != 0 && threadIdx.x % 32 == 0) atomicAdd(to + limb + i, sum);
        }
        waiting &= ~__ballot_sync(0xffffffffu, is_mine);
    }
}

/// Integers: any order of the additions gives the same words. words must be zero before.
__global__ void __launch_bounds__(threads) sum_limbs(Limb* words, const double* sums, int64_t n) {
    __shared__ Limb mine[limbs + 1];
    for (int i = static_cast<int>(threadIdx.x); i <= limbs; i += threads)
        mine[i] = 0;
    __syncthreads();
    const int64_t step = int64_t{gridDim.x} * threads;
    // Whole warps go around together.
    for (int64_t first = int64_t{blockIdx.x} * threads; first < n; first += step) {
        const int64_t i = first + threadIdx.x;
        const double x = i < n ? sums[i] : 0.0;
        const bool is_counted = isfinite(x) && !signbit(x);
        const unsigned left_out = __ballot_sync(0xffffffffu, !is_counted);
        if (left_out != 0 && threadIdx.x % 32 == 0)
            atomicAdd(mine + limbs, static_cast<Limb>(__popc(left_out)));
        add_to_limbs(mine, is_counted ? exact_parts(x) : ExactParts{}, is_counted && x > 0.0);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i <= limbs; i += threads)
        if (mine[i] != 0) atomicAdd(words + i, mine[i]);
}

/// Carries, so that each limb is below 2^32.
__global__ void normalize_limbs(Limb* words) {
    __shared__ Limb mine[limbs];
    for (int i = static_cast<int>(threadIdx.x); i < limbs; i += static_cast<int>(blockDim.x))
        mine[i] = words[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        Limb carry = 0;
        for (int i = 0; i < limbs; ++i) {
            mine[i] += carry;
            carry = mine[i] >> ExactSum::limb_bits;
            mine[i] &= 0xffffffffu;
        }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < limbs; i += static_cast<int>(blockDim.x))
        words[i] = mine[i];
}

}  // namespace

void squared_block_sums(View block_sums, std::vector<ConstView> gradients, Stream& stream) {
    int64_t all = 0;
    for (const ConstView& gradient : gradients) {
        CHECK(gradient.is_contiguous(), "squared_block_sums: of {}", gradient.shape.text());
        all += gradient_blocks(gradient.elements());
    }
    CHECK(block_sums.elements() == all && block_sums.is_contiguous(),
          "squared_block_sums: {} sums of {} blocks", block_sums.elements(), all);
    const cudaStream_t queue = queue_of(stream).stream();
    const auto launch_table = [&](const BlockTable<Gradient>& table, unsigned blocks) {
        sum_squares<<<blocks, threads, 0, queue>>>(table);
        CUDA_CHECK_LAUNCH("squared_block_sums");
    };
    BlockTables<Gradient, decltype(launch_table)> tables(launch_table);
    double* sums = block_sums.as<double>();
    for (const ConstView& gradient : gradients) {
        const float* x = gradient.as<float>();
        const int64_t blocks = gradient_blocks(gradient.elements());
        tables.add({x, sums, gradient.elements(), is_aligned(x, sizeof(float) * width)},
                   (blocks + warps - 1) / warps);
        sums += blocks;
    }
    tables.finish();
}

void exact_sum_of_blocks(View words, ConstView block_sums, Stream& stream) {
    CHECK(words.elements() == limbs + 1 && block_sums.is_contiguous(),
          "exact_sum_of_blocks: {} words for {}", words.elements(), block_sums.shape.text());
    Queue& queue = queue_of(stream);
    auto* out = reinterpret_cast<Limb*>(words.as<int64_t>());
    queue.set_zero(out, words.bytes());
    const int64_t n = block_sums.elements();
    if (n == 0) return;
    // Few blocks for few sums: each adds up to 69 words to memory in the end.
    const unsigned blocks =
        std::min(blocks_for(n, threads, 4), static_cast<unsigned>(2 * queue.multiprocessors()));
    sum_limbs<<<blocks, threads, 0, queue.stream()>>>(out, block_sums.as<double>(), n);
    CUDA_CHECK_LAUNCH("exact_sum_of_blocks");
    normalize_limbs<<<1, 96, 0, queue.stream()>>>(out);
    CUDA_CHECK_LAUNCH("exact_sum_of_blocks");
}

PLINTH_CUDA_KERNEL(squared_block_sums);
PLINTH_CUDA_KERNEL(exact_sum_of_blocks);

}  // namespace plinth::kernels::cuda
