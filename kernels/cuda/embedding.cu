// SPDX-License-Identifier: Apache-2.0
// D width, V vocabulary, n ids.
#include "kernels/embedding.h"

#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/held_row.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, warps = threads / 32;

/// Rows of one id that one warp adds. More are added by several, then their sums.
constexpr int chunk = 64;
constexpr int rows_in_flight = 8;

__device__ inline int warp_of_grid() {
    return static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
}

struct ForwardTables {
    const int32_t* ids;
    const int32_t* positions;  ///< null: none
    int64_t first, held, total, position_rows;
};

// Moves a read of each table's rows and one write of y. A warp takes a row.
template <typename T, int N>
__global__ void __launch_bounds__(threads)
    gather_rows(T* __restrict__ y, const T* __restrict__ table,
                const T* __restrict__ position_table, ForwardTables p, int64_t n, int width,
                Fault* fault) {
    const int64_t i = warp_of_grid();
    if (i >= n) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t id = p.ids[i], position = p.positions ? p.positions[i] : 0;
    const bool is_id = id >= 0 && id < p.total;
    const bool is_position = !p.positions || (position >= 0 && position < p.position_rows);
    if (lane == 0 && !is_id) report(fault, Fault::token_outside_vocabulary, id, i, p.total);
    if (lane == 0 && is_id && !is_position)
        report(fault, Fault::position_without_row, position, i, p.position_rows);
    const int64_t v = id - p.first;
    const T* token = is_id && v >= 0 && v < p.held ? table + v * width : nullptr;
    const T* place = p.positions && is_position ? position_table + position * width : nullptr;
    T* out = y + i * width;
#pragma unroll 4
    for (int column = lane * N; column < width; column += 32 * N) {
        Vector<T, N> values{};
        if (token) values = load<N>(token + column);
        if (place) {
            const auto places = load<N>(place + column);
            float sums[N];
#pragma unroll
            for (int j = 0; j < N; ++j)
                sums[j] = to_float(values.values[j]) + to_float(places.values[j]);
            values = rounded<T>(sums);
        }
        store(out + column, values);
    }
}

/// Sort keys: the id's row of the table, or `held` for ids of other tables; values: their places.
__global__ void make_keys(uint32_t* keys, uint32_t* places, const int32_t* ids, int64_t first,
                          int64_t held, int n) {
    const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
    if (i >= n) return;
    const int64_t v = ids[i] - first;
    keys[i] = static_cast<uint32_t>(v >= 0 && v < held ? v : held);
    places[i] = static_cast<uint32_t>(i);
}

/// starts[v] = number of keys below v, for v in [0, held].
__global__ void find_starts(int32_t* starts, const uint32_t* keys, int64_t held, int n) {
    const int64_t v = int64_t{blockIdx.x} * threads + threadIdx.x;
    if (v > held) return;
    int low = 0, high = n;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (keys[middle] < v)
            low = middle + 1;
        else
            high = middle;
    }
    starts[v] = low;
}

/// The ids of a batch, sorted: those of table row v stand at places[starts[v]] ..
/// places[starts[v + 1] - 1], ascending.
struct SortedIds {
    const uint32_t* keys;
    const uint32_t* places;
    const int32_t* starts;
};

/// sums += rows of x at `places`, in their order.
template <typename T, int N>
__device__ inline void add_rows(float (&sums)[N], const T* x, const uint32_t* places, int count,
                                int width, int column) {
    int i = 0;
    for (; i + rows_in_flight <= count; i += rows_in_flight) {
        Vector<T, N> rows[rows_in_flight];
#pragma unroll
        for (int k = 0; k < rows_in_flight; ++k)
            rows[k] = load<N>(x + int64_t{places[i + k]} * width + column);
#pragma unroll
        for (int k = 0; k < rows_in_flight; ++k)
#pragma unroll
            for (int j = 0; j < N; ++j)
                sums[j] += to_float(rows[k].values[j]);
    }
    for (; i < count; ++i) {
        const auto row = load<N>(x + int64_t{places[i]} * width + column);
#pragma unroll
        for (int j = 0; j < N; ++j)
            sums[j] += to_float(row.values[j]);
    }
}

/// Where the sum of an id's chunk that begins at sorted place `begin` is kept; `start` is where the
/// id begins. In 64 sorted places at most two chunks of long ids begin: one of an id that began
/// before, and one of an id that begins here.
__device__ inline int64_t slot_of(int begin, int start) {
    const int tile = begin / chunk;
    return 2 * int64_t{tile} + (start > tile * chunk ? 1 : 0);
}

/// Sums of the chunks of ids with more rows than one chunk: a warp takes a slot. Chunks are counted
/// from the id's first row, so that the sum depends on the id's rows alone.
template <typename T, int N>
__global__ void __launch_bounds__(threads)
    sum_chunks(float* parts, const T* dy, SortedIds sorted, int64_t held, int n, int width) {
    const int slot = warp_of_grid(), tile = slot / 2 * chunk;
    if (tile >= n) return;
    const bool begins_here = slot % 2 != 0;
    const uint32_t key = sorted.keys[begins_here ? min(tile + chunk, n) - 1 : tile];
    if (key >= held) return;
    const int start = sorted.starts[key], end = sorted.starts[key + 1];
    if (end - start <= chunk || begins_here != (start > tile)) return;
    const int begin = begins_here ? start : start + (tile - start + chunk - 1) / chunk * chunk;
    if (begin >= end) return;
    const int column = (static_cast<int>(blockIdx.y) * 32 + static_cast<int>(threadIdx.x) % 32) * N;
    if (column >= width) return;
    float sums[N] = {};
    add_rows(sums, dy, sorted.places + begin, min(chunk, end - begin), width, column);
#pragma unroll
    for (int j = 0; j < N; ++j)
        parts[int64_t{slot} * width + column + j] = sums[j];
}

// Moves one read of dy and one write of the table, which it also reads where it accumulates. A warp
// takes 16 bytes a lane of a table row.
template <bool accumulates, typename T, int N>
__global__ void __launch_bounds__(threads) sum_ids(float* dtable, const float* parts, const T* dy,
                                                   SortedIds sorted, int64_t held, int width) {
    const int64_t v = warp_of_grid();
    const int column = (static_cast<int>(blockIdx.y) * 32 + static_cast<int>(threadIdx.x) % 32) * N;
    if (v >= held || column >= width) return;
    const int start = sorted.starts[v], end = sorted.starts[v + 1];
    float sums[N] = {};
    if (end - start <= chunk) {
        add_rows(sums, dy, sorted.places + start, end - start, width, column);
    } else {
#pragma unroll 4
        for (int begin = start; begin < end; begin += chunk) {
            const auto part = load<N>(parts + slot_of(begin, start) * width + column);
#pragma unroll
            for (int j = 0; j < N; ++j)
                sums[j] += part.values[j];
        }
    }
    Vector<float, N> out{};
    if constexpr (accumulates) out = load<N>(dtable + v * width + column);
#pragma unroll
    for (int j = 0; j < N; ++j)
        out.values[j] = accumulates ? out.values[j] + sums[j] : sums[j];
    store(dtable + v * width + column, out);
}

/// Cuts one block of scratch into arrays; without a block it counts their bytes.
class Carver {
  public:
    explicit Carver(void* base = nullptr) : base_(static_cast<std::byte*>(base)) {}
    template <typename T>
    T* take(int64_t count) {
        std::byte* at = base_ ? base_ + bytes_ : nullptr;
        bytes_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
        return reinterpret_cast<T*>(at);
    }
    size_t bytes() const { return bytes_; }

  private:
    std::byte* base_;
    size_t bytes_ = 0;
};

/// What the backward pass keeps in scratch.
struct Work {
    uint32_t *keys, *places, *sorted_keys, *sorted_places;
    int32_t* starts;
    float* parts;  ///< [two slots for each 64 ids, D]
    std::byte* sort;

    Work(Carver& carver, int64_t n, int64_t held, int64_t width, size_t sort_bytes)
        : keys(carver.take<uint32_t>(n)),
          places(carver.take<uint32_t>(n)),
          sorted_keys(carver.take<uint32_t>(n)),
          sorted_places(carver.take<uint32_t>(n)),
          starts(carver.take<int32_t>(held + 1)),
          parts(carver.take<float>(n > chunk ? 2 * ((n + chunk - 1) / chunk) * width : 0)),
          sort(carver.take<std::byte>(static_cast<int64_t>(sort_bytes))) {}
};

/// The number of bits that keys up to `held` have.
int key_bits(int64_t held) {
    return std::bit_width(static_cast<uint64_t>(held));
}

/// Stable: ids keep the order of their places.
void sort_pairs(Work* work, size_t& bytes, int n, int64_t held, cudaStream_t stream) {
    CUDA_CHECK(cub::DeviceRadixSort::SortPairs(
        work ? work->sort : nullptr, bytes, work ? work->keys : nullptr,
        work ? work->sorted_keys : nullptr, work ? work->places : nullptr,
        work ? work->sorted_places : nullptr, n, 0, std::max(1, key_bits(held)), stream));
}

Work sorted_ids(ConstView ids, int64_t first, int64_t held, int64_t width, Queue& queue) {
    const auto n = static_cast<int>(ids.elements());
    size_t sort_bytes = 0;
    sort_pairs(nullptr, sort_bytes, n, held, queue.stream());
    Carver count;
    Work(count, n, held, width, sort_bytes);
    Carver carver(queue.scratch(count.bytes()));
    Work work(carver, n, held, width, sort_bytes);
    make_keys<<<blocks_for(n, threads), threads, 0, queue.stream()>>>(
        work.keys, work.places, ids.as<int32_t>(), first, held, n);
    CUDA_CHECK_LAUNCH("embedding_backward");
    sort_pairs(&work, sort_bytes, n, held, queue.stream());
    find_starts<<<blocks_for(held + 1, threads), threads, 0, queue.stream()>>>(
        work.starts, work.sorted_keys, held, n);
    CUDA_CHECK_LAUNCH("embedding_backward");
    return work;
}

}  // namespace

void embedding_forward(View y, ConstView ids, ConstView table, ConstView positions,
                       ConstView position_table, TableRows rows, Stream& stream) {
    const int64_t width = y.dim(-1), n = ids.elements();
    CHECK(table.shape.rank() == 2 && table.dim(1) == width && y.shape.rows() == n &&
              y.is_contiguous() && table.is_contiguous() && ids.is_contiguous(),
          "embedding: {} from ids {} and table {}", y.shape.text(), ids.shape.text(),
          table.shape.text());
    CHECK(!positions || (positions.elements() == n && position_table.shape.rank() == 2 &&
                         position_table.dim(1) == width && position_table.dtype == table.dtype &&
                         position_table.is_contiguous() && positions.is_contiguous()),
          "embedding: positions {} and their table {} do not fit {}", positions.shape.text(),
          position_table.shape.text(), y.shape.text());
    if (y.elements() == 0) return;
    Queue& queue = queue_of(stream);
    const ForwardTables tables{.ids = ids.as<int32_t>(),
                               .positions = positions ? positions.as<int32_t>() : nullptr,
                               .first = rows.first,
                               .held = table.dim(0),
                               .total = rows.total,
                               .position_rows = positions ? position_table.dim(0) : 0};
    with_device_float(y.dtype, "embedding_forward", [&]<typename T>(T) {
        const T* places = positions ? position_table.as<T>() : nullptr;
        const auto launch = [&](auto vector) {
            gather_rows<T, vector()><<<blocks_for(n, warps), threads, 0, queue.stream()>>>(
                y.as<T>(), table.as<T>(), places, tables, n, static_cast<int>(width),
                queue.fault());
        };
        if (width % widest<T> == 0 && is_aligned(y.data, 16) && is_aligned(table.data, 16) &&
            is_aligned(places, 16))
            launch(std::integral_constant<int, widest<T>>{});
        else
            launch(std::integral_constant<int, 1>{});
    });
    CUDA_CHECK_LAUNCH("embedding_forward");
}

void embedding_backward(View dtable, ConstView dy, ConstView ids, TableRows rows, bool accumulates,
                        Stream& stream) {
    const int64_t held = dtable.dim(0), width = dtable.dim(1), n = ids.elements();
    CHECK(dy.dim(-1) == width && dy.shape.rows() == n && dy.is_contiguous() &&
              dtable.is_contiguous() && ids.is_contiguous(),
          "embedding: gradient {} of ids {} for table {}", dy.shape.text(), ids.shape.text(),
          dtable.shape.text());
    Queue& queue = queue_of(stream);
    if (dtable.elements() == 0 || (n == 0 && accumulates)) return;
    if (n == 0) return queue.set_zero(dtable.data, dtable.bytes());
    const Work work = sorted_ids(ids, rows.first, held, width, queue);
    const SortedIds sorted{work.sorted_keys, work.sorted_places, work.starts};
    with_device_float(dy.dtype, "embedding_backward", [&]<typename T>(T) {
        const auto launch = [&](auto vector) {
            const unsigned columns = blocks_for(width, 32 * vector());
            const int64_t slots = 2 * ((n + chunk - 1) / chunk);
            if (n > chunk) {
                sum_chunks<T, vector()>
                    <<<dim3(blocks_for(slots, warps), columns), threads, 0, queue.stream()>>>(
                        work.parts, dy.as<T>(), sorted, held, static_cast<int>(n),
                        static_cast<int>(width));
                CUDA_CHECK_LAUNCH("embedding_backward");
            }
            const auto sum = accumulates ? sum_ids<true, T, vector()> : sum_ids<false, T, vector()>;
            sum<<<dim3(blocks_for(held, warps), columns), threads, 0, queue.stream()>>>(
                dtable.as<float>(), work.parts, dy.as<T>(), sorted, held, static_cast<int>(width));
            CUDA_CHECK_LAUNCH("embedding_backward");
        };
        if (width % widest<T> == 0 && is_aligned(dy.data, 16) && is_aligned(dtable.data, 32))
            launch(std::integral_constant<int, widest<T>>{});
        else
            launch(std::integral_constant<int, 1>{});
    });
}

PLINTH_CUDA_KERNEL(embedding_forward);
PLINTH_CUDA_KERNEL(embedding_backward);

}  // namespace plinth::kernels::cuda
