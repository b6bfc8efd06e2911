// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include "kernels/attention_part_shape.h"
#include "kernels/cuda/attention_state.h"
#include "kernels/cuda/attention_tensor_core.h"
#include "kernels/cuda/attention_tiled.h"
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/row_tiles.h"

namespace plinth::kernels::cuda {

namespace {

/// dqkv = own, with others added to its last columns; rows as RowTiles cuts them. Reads own and
/// others once and writes dqkv once.
template <int width, typename T>
__global__ void __launch_bounds__(RowTiles::most_threads)
    join_rows(T* dqkv, const float* own, const float* others, const PartJoin join) {
    constexpr int per_thread = RowTiles::rows_per_thread;
    const int64_t first = int64_t{blockIdx.x} * blockDim.y * per_thread + threadIdx.y;
    for (int64_t column = int64_t{threadIdx.x} * width; column < join.columns;
         column += int64_t{blockDim.x} * width) {
        // Keys first, then values: what is added to row 0 of this column.
        int64_t at = column - join.queries;
        const bool is_value = at >= join.width;
        if (is_value) at += (join.rows - 1) * join.width;
        const float* more = others != nullptr && column >= join.queries ? others + at : nullptr;
        Vector<float, width> in[per_thread], added[per_thread];
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t row = first + int64_t{k} * blockDim.y; row < join.rows) {
                in[k] = *reinterpret_cast<const Vector<float, width>*>(own + row * join.columns +
                                                                       column);
                if (more)
                    added[k] =
                        *reinterpret_cast<const Vector<float, width>*>(more + row * join.width);
            }
#pragma unroll
        for (int k = 0; k < per_thread; ++k)
            if (const int64_t row = first + int64_t{k} * blockDim.y; row < join.rows) {
                Vector<T, width> out;
#pragma unroll
                for (int i = 0; i < width; ++i)
                    out.values[i] = from_float<T>(more ? in[k].values[i] + added[k].values[i]
                                                       : in[k].values[i]);
                *reinterpret_cast<Vector<T, width>*>(dqkv + row * join.columns + column) = out;
            }
    }
}

template <int width, typename T>
void launch_join_rows(T* dqkv, const float* own, const float* others, const PartJoin& join,
                      Queue& queue) {
    const RowTiles tiles(join.rows, join.columns / width);
    const dim3 threads(static_cast<unsigned>(tiles.columns), static_cast<unsigned>(tiles.lanes));
    join_rows<width><<<static_cast<unsigned>(tiles.blocks), threads, 0, queue.stream()>>>(
        dqkv, own, others, join);
    CUDA_CHECK_LAUNCH("attention_part_join");
}

/// Whether 16 bytes of each row of a head can be read at once.
bool are_token_rows_aligned(std::initializer_list<ConstView> tokens) {
    return std::all_of(tokens.begin(), tokens.end(), [](const ConstView& view) {
        return begin_at_multiples_of_16({view.data}) && view.stride(0) % 8 == 0 &&
               view.stride(1) % 8 == 0;
    });
}

/// Whether tensor cores serve the part; counts who does. `tokens` are its bf16 tensors.
bool takes_tensor_cores(const AttentionShape& shape, std::initializer_list<ConstView> tokens,
                        Queue& queue) {
    auto& state = queue.state<AttentionState>();
    const bool takes =
        choose_own_attention(shape, tokens.begin()->dtype, are_token_rows_aligned(tokens),
                             state.capability) == AttentionImplementation::tensor_core;
    ++(takes ? state.counts.tensor_core : state.counts.tiled);
    return takes;
}

}  // namespace

void attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                            AttentionMask mask, AttentionPart part, Attention options,
                            Stream& stream) {
    const AttentionShape shape = part_forward_shape(y, log_sum, q, k, v, mask, part, options);
    Queue& queue = queue_of(stream);
    const auto serve = takes_tensor_cores(shape, {q, k, v}, queue)
                           ? tensor_core_attention_part_forward
                           : tiled_attention_part_forward;
    serve(y, log_sum, q, k, v, shape, mask, part, options, queue);
}

void attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                             ConstView log_sum, ConstView q, ConstView k, ConstView v,
                             AttentionMask mask, AttentionPart part, Attention options,
                             Stream& stream) {
    const AttentionShape shape =
        part_backward_shape(dq, dk, dv, dy, y, log_sum, q, k, v, mask, part, options);
    Queue& queue = queue_of(stream);
    const auto serve = takes_tensor_cores(shape, {q, k, v, dy, y}, queue)
                           ? tensor_core_attention_part_backward
                           : tiled_attention_part_backward;
    serve(dq, dk, dv, dy, y, log_sum, q, k, v, shape, mask, part, options, queue);
}

void attention_part_join(View dqkv, ConstView own, ConstView others, Stream& stream) {
    const PartJoin join = PartJoin::of(dqkv, own, others);
    if (join.rows * join.columns == 0) return;
    with_device_float(dqkv.dtype, "attention_part_join", [&]<typename T>(T) {
        constexpr int width = 4;
        const bool wide = join.columns % width == 0 && join.width % width == 0 &&
                          is_aligned(dqkv.data, width * sizeof(T)) &&
                          are_aligned({own.data, others.data});
        const auto launch = wide ? &launch_join_rows<width, T> : &launch_join_rows<1, T>;
        launch(dqkv.as<T>(), own.as<float>(), others ? others.as<float>() : nullptr, join,
               queue_of(stream));
    });
}

PLINTH_CUDA_KERNEL(attention_part_forward);
PLINTH_CUDA_KERNEL(attention_part_backward);
PLINTH_CUDA_KERNEL(attention_part_join);

}  // namespace plinth::kernels::cuda
