// SPDX-License-Identifier: Apache-2.0
#include "kernels/select_rows.h"

#include "kernels/cuda/copy_rows.cuh"

namespace plinth::kernels::cuda {

namespace {

/// One warp a sample: 32 targets at once until one of them is a label.
__global__ void find_labels(int32_t* rows, int32_t* labels, const int32_t* targets, int64_t length,
                            int32_t ignored_target, Fault* fault) {
    const int64_t b = blockIdx.x;
    const int lane = static_cast<int>(threadIdx.x);
    for (int64_t first = 0; first < length; first += 32) {
        const int64_t t = first + lane;
        const int32_t target = t < length ? targets[b * length + t] : ignored_target;
        const unsigned found = __ballot_sync(0xffffffffu, target != ignored_target);
        if (found == 0) continue;
        if (lane == __ffs(static_cast<int>(found)) - 1) {
            rows[b] = static_cast<int32_t>(b * length + t);
            labels[b] = target;
        }
        return;
    }
    if (lane == 0) report(fault, Fault::sample_without_label, 0, b, 0);
}

/// A row number that the kernels may use; others are reported.
__device__ bool is_sound(const int32_t* rows, int64_t r, int64_t limit, Fault* fault) {
    const int64_t least = r == 0 ? 0 : int64_t{rows[r - 1]} + 1;
    if (rows[r] >= least && rows[r] >= 0 && rows[r] < limit) return true;
    if (threadIdx.x == 0) report(fault, Fault::row_does_not_ascend, rows[r], r, limit);
    return false;
}

/// A block has one of the few rows: reads and writes it once.
template <typename Unit>
__global__ void gather_rows(Unit* few, const Unit* many, const int32_t* rows, int64_t units,
                            int64_t limit, Fault* fault) {
    const int64_t r = blockIdx.x;
    if (is_sound(rows, r, limit, fault)) copy_row(few + r * units, many + rows[r] * units, units);
}

template <typename Unit>
__global__ void scatter_rows(Unit* many, const Unit* few, const int32_t* rows, int64_t units,
                             int64_t limit, Fault* fault) {
    const int64_t r = blockIdx.x;
    if (is_sound(rows, r, limit, fault)) copy_row(many + rows[r] * units, few + r * units, units);
}

void check_rows(const char* kernel, const ConstView& few, const ConstView& many,
                const ConstView& rows) {
    CHECK(few.shape.rank() == 2 && many.shape.rank() == 2 && few.dim(1) == many.dim(1) &&
              few.dim(0) == rows.elements() && few.dtype == many.dtype && few.is_contiguous() &&
              many.is_contiguous() && rows.is_contiguous(),
          "{}: rows {} of {} as {}", kernel, rows.shape.text(), many.shape.text(),
          few.shape.text());
}

/// Calls launch with the unit of a row's copy, the units of a row, the blocks and their threads.
template <typename Launch>
void with_rows(const char* kernel, const ConstView& few, const ConstView& many, Launch&& launch) {
    if (few.elements() == 0) return;
    const auto bytes = static_cast<size_t>(few.dim(1)) * size_of(few.dtype);
    with_copy_unit(bytes, {few.data, many.data}, [&]<typename Unit>(Unit unit) {
        const auto units = static_cast<int64_t>(bytes / sizeof(Unit));
        const auto threads = static_cast<unsigned>(std::min<int64_t>(256, (units + 31) / 32 * 32));
        launch(unit, units, static_cast<unsigned>(few.dim(0)), threads);
    });
    CUDA_CHECK_LAUNCH(kernel);
}

}  // namespace

void find_labelled_rows(View rows, View labels, ConstView targets, int32_t ignored_target,
                        Stream& stream) {
    const int64_t samples = targets.dim(0), length = targets.dim(1);
    CHECK(rows.elements() == samples && labels.elements() == samples && targets.is_contiguous(),
          "find_labelled_rows: {} rows and {} labels of targets {}", rows.elements(),
          labels.elements(), targets.shape.text());
    if (samples == 0) return;
    Queue& queue = queue_of(stream);
    find_labels<<<static_cast<unsigned>(samples), 32, 0, queue.stream()>>>(
        rows.as<int32_t>(), labels.as<int32_t>(), targets.as<int32_t>(), length, ignored_target,
        queue.fault());
    CUDA_CHECK_LAUNCH("find_labelled_rows");
}

void select_rows_forward(View y, ConstView x, ConstView rows, Stream& stream) {
    check_rows("select_rows_forward", y, x, rows);
    Queue& queue = queue_of(stream);
    with_rows("select_rows_forward", y, x,
              [&]<typename Unit>(Unit, int64_t units, unsigned blocks, unsigned threads) {
                  gather_rows<<<blocks, threads, 0, queue.stream()>>>(
                      static_cast<Unit*>(y.data), static_cast<const Unit*>(x.data),
                      rows.as<int32_t>(), units, x.dim(0), queue.fault());
              });
}

void select_rows_backward(View dx, ConstView dy, ConstView rows, Stream& stream) {
    check_rows("select_rows_backward", dy, dx, rows);
    Queue& queue = queue_of(stream);
    if (dx.elements() > 0) queue.set_zero(dx.data, dx.bytes());
    with_rows("select_rows_backward", dy, dx,
              [&]<typename Unit>(Unit, int64_t units, unsigned blocks, unsigned threads) {
                  scatter_rows<<<blocks, threads, 0, queue.stream()>>>(
                      static_cast<Unit*>(dx.data), static_cast<const Unit*>(dy.data),
                      rows.as<int32_t>(), units, dx.dim(0), queue.fault());
              });
}

PLINTH_CUDA_KERNEL(find_labelled_rows);
PLINTH_CUDA_KERNEL(select_rows_forward);
PLINTH_CUDA_KERNEL(select_rows_backward);

}  // namespace plinth::kernels::cuda
