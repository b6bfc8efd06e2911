// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cuda/block_table.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, per_thread = 4;
constexpr int64_t block_elements = int64_t{threads} * per_thread;

using Four = Vector<float, per_thread>;

/// Constants as an argument, or where an earlier kernel wrote them: 40 bytes that all threads read.
struct Given {
    AdamWConstants decaying, others;
    __device__ bool goes() const { return true; }
    __device__ AdamWConstants get(bool decays) const { return decays ? decaying : others; }
};
struct Decided {
    const float* terms;
    __device__ bool goes() const { return terms[AdamWConstants::words] != 0.0f; }
    __device__ AdamWConstants get(bool decays) const {
        return AdamWConstants(decays ? terms : terms + adamw_words);
    }
};

/// A part of an update with moments of type T.
template <typename T>
struct Part {
    float* w = nullptr;
    T *m = nullptr, *v = nullptr;
    const float* gradient = nullptr;
    int64_t n = 0;
    bool decays = true, is_wide = false;
};
/// With what one of its elements is rounded by.
template <>
struct Part<BFloat16> {
    float* w = nullptr;
    BFloat16 *m = nullptr, *v = nullptr;
    const float* gradient = nullptr;
    int64_t n = 0;
    bool decays = true, is_wide = false;
    StepKey key;
    ElementRows elements;
};

// Moves 28 bytes an element: weight and both moments in and out, the gradient in.
__device__ inline void update(const Part<float>& part, int64_t first, const AdamWConstants& c) {
    if (part.is_wide && first + per_thread <= part.n) {
        auto *w_at = reinterpret_cast<Four*>(part.w + first),
             *m_at = reinterpret_cast<Four*>(part.m + first),
             *v_at = reinterpret_cast<Four*>(part.v + first);
        Four weights = *w_at, firsts = *m_at, seconds = *v_at;
        const Four gradients = *reinterpret_cast<const Four*>(part.gradient + first);
#pragma unroll
        for (int i = 0; i < per_thread; ++i)
            adamw_update(weights.values[i], firsts.values[i], seconds.values[i],
                         gradients.values[i], c);
        *w_at = weights;
        *m_at = firsts;
        *v_at = seconds;
    } else {
        for (int64_t i = first; i < part.n && i < first + per_thread; ++i)
            adamw_update(part.w[i], part.m[i], part.v[i], part.gradient[i], c);
    }
}

// Moves 20 bytes an element: the moments are half as long. Ten rounds of Philox for four elements
// where the parameter's quadruples are those of the threads, else for each.
__device__ inline void update(const Part<BFloat16>& part, int64_t first, const AdamWConstants& c) {
    const RandomKey key = part.key.get();
    if (part.is_wide && first + per_thread <= part.n) {
        using Halves = Vector<BFloat16, per_thread>;
        auto* w_at = reinterpret_cast<Four*>(part.w + first);
        auto *m_at = reinterpret_cast<Halves*>(part.m + first),
             *v_at = reinterpret_cast<Halves*>(part.v + first);
        Four weights = *w_at;
        Halves firsts = *m_at, seconds = *v_at;
        const Four gradients = *reinterpret_cast<const Four*>(part.gradient + first);
        const auto words = key.words(static_cast<uint64_t>(part.elements[first] / per_thread));
#pragma unroll
        for (int i = 0; i < per_thread; ++i)
            adamw_update(weights.values[i], firsts.values[i], seconds.values[i],
                         gradients.values[i], c, words[static_cast<size_t>(i)]);
        *w_at = weights;
        *m_at = firsts;
        *v_at = seconds;
    } else {
        for (int64_t i = first; i < part.n && i < first + per_thread; ++i) {
            const auto number = static_cast<uint64_t>(part.elements[i]);
            adamw_update(part.w[i], part.m[i], part.v[i], part.gradient[i], c,
                         key.words(number / 4)[number % 4]);
        }
    }
}

template <typename T, typename Source>
__global__ void __launch_bounds__(threads)
    update_parts(const __grid_constant__ BlockTable<Part<T>> table, Source source) {
    if (!source.goes()) return;
    const int at = table.range_of(blockIdx.x);
    const Part<T>& part = table.ranges[at];
    const int64_t block = blockIdx.x - table.first_block[at];
    update(part, block * block_elements + int64_t{threadIdx.x} * per_thread,
           source.get(part.decays));
}

void check_same_elements(ConstView a, ConstView b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "adamw: shapes {} and {}", a.shape.text(), b.shape.text());
}

template <typename T>
Part<T> part_of(const AdamWPart& from) {
    Part<T> part{.w = from.weight.as<float>(),
                 .m = from.first_moment.as<T>(),
                 .v = from.second_moment.as<T>(),
                 .gradient = from.gradient.as<float>(),
                 .n = from.weight.elements(),
                 .decays = from.decays};
    part.is_wide = is_aligned(part.w, sizeof(Four)) && is_aligned(part.gradient, sizeof(Four)) &&
                   is_aligned(part.m, per_thread * sizeof(T)) &&
                   is_aligned(part.v, per_thread * sizeof(T));
    if constexpr (std::is_same_v<T, BFloat16>) {
        part.is_wide = part.is_wide && from.elements.keeps_quadruples();
        part.key = from.rounding;
        part.elements = from.elements;
    }
    return part;
}

template <typename Source>
void launch(const std::vector<AdamWPart>& parts, const Source& source, Stream& stream) {
    for (const AdamWPart& part : parts) {
        check_same_elements(part.weight, part.gradient);
        check_same_elements(part.weight, part.first_moment);
        check_same_elements(part.weight, part.second_moment);
        CHECK(part.elements.is_sound(), "adamw: from element {} on", part.elements.first);
        CHECK(part.first_moment.dtype == parts[0].first_moment.dtype &&
                  part.second_moment.dtype == parts[0].first_moment.dtype,
              "adamw: moments in {} and in {}", name_of(parts[0].first_moment.dtype),
              name_of(part.second_moment.dtype));
    }
    if (parts.empty()) return;
    const cudaStream_t queue = queue_of(stream).stream();
    with_device_float(parts[0].first_moment.dtype, "adamw", [&]<typename T>(T) {
        const auto launch_table = [&](const BlockTable<Part<T>>& table, unsigned blocks) {
            update_parts<T, Source><<<blocks, threads, 0, queue>>>(table, source);
            CUDA_CHECK_LAUNCH("adamw");
        };
        BlockTables<Part<T>, decltype(launch_table)> tables(launch_table);
        for (const AdamWPart& part : parts)
            tables.add(part_of<T>(part),
                       (part.weight.elements() + block_elements - 1) / block_elements);
        tables.finish();
    });
}

}  // namespace

void adamw_parts(std::vector<AdamWPart> parts, AdamW options, Stream& stream) {
    if (options.skip) return;
    launch(parts, Given{AdamWConstants(options), AdamWConstants(without_decay(options))}, stream);
}

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    adamw_parts(
        {{weight, first_moment, second_moment, gradient, true, options.rounding, options.elements}},
        options, stream);
}

void adamw_decided(std::vector<AdamWPart> parts, ConstView terms, Stream& stream) {
    CHECK(terms.elements() == 2 * adamw_words && terms.is_contiguous(), "adamw: terms of shape {}",
          terms.shape.text());
    launch(parts, Decided{terms.as<float>()}, stream);
}

PLINTH_CUDA_KERNEL(adamw);
PLINTH_CUDA_KERNEL(adamw_parts);
PLINTH_CUDA_KERNEL(adamw_decided);

}  // namespace plinth::kernels::cuda
