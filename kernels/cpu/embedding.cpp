// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <cstring>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

template <typename T>
PLINTH_SIMD void add_rows(T* y, const T* a, const T* b, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = T(static_cast<float>(a[i]) + static_cast<float>(b[i]));
}

template <typename T>
PLINTH_SIMD void copy_row(float* sum, const T* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] = static_cast<float>(row[i]);
}

template <typename T>
PLINTH_SIMD void accumulate_row(float* sum, const T* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] += static_cast<float>(row[i]);
}

/// Before the work is cut into chunks, so that the error names the first bad id.
void check_ids(const char* what, ConstView ids, int64_t total) {
    const int32_t* id = ids.as<int32_t>();
    for (int64_t i = 0; i < ids.elements(); ++i)
        REQUIRE(data, id[i] >= 0 && id[i] < total,
                "embedding: {} {} (number {} of the batch) is outside of a table of {} rows", what,
                id[i], i, total);
}

/// The places of each table row's id in the batch: those of row v are
/// order[start[v]] .. order[start[v + 1] - 1], ascending.
struct Buckets {
    std::vector<int32_t> start, order;

    Buckets(ConstView ids, int64_t first, int64_t rows)
        : start(static_cast<size_t>(rows) + 1, 0), order(static_cast<size_t>(ids.elements())) {
        const int32_t* id = ids.as<int32_t>();
        const auto count = static_cast<int32_t>(ids.elements());
        const auto held = [&](int32_t i) { return id[i] >= first && id[i] < first + rows; };
        for (int32_t i = 0; i < count; ++i)
            if (held(i)) ++start[static_cast<size_t>(id[i] - first) + 1];
        for (size_t v = 0; v < static_cast<size_t>(rows); ++v)
            start[v + 1] += start[v];
        std::vector<int32_t> next(start.begin(), start.end() - 1);
        for (int32_t i = 0; i < count; ++i)
            if (held(i)) {
                int32_t& place = next[static_cast<size_t>(id[i] - first)];
                order[static_cast<size_t>(place++)] = i;
            }
    }
};

template <typename T>
void sum_rows(float* sum, const T* dy, const Buckets& buckets, size_t v, int64_t width) {
    const auto begin = static_cast<size_t>(buckets.start[v]);
    const auto end = static_cast<size_t>(buckets.start[v + 1]);
    if (begin == end) {
        std::memset(sum, 0, static_cast<size_t>(width) * sizeof(float));
        return;
    }
    copy_row(sum, dy + buckets.order[begin] * width, width);
    for (size_t i = begin + 1; i < end; ++i)
        accumulate_row(sum, dy + buckets.order[i] * width, width);
}

}  // namespace

void embedding_forward(View y, ConstView ids, ConstView table, ConstView positions,
                       ConstView position_table, TableRows rows, Stream& stream) {
    const int64_t width = y.dim(-1), held = table.dim(0);
    CHECK(table.shape.rank() == 2 && table.dim(1) == width && y.shape.rows() == ids.elements() &&
              y.is_contiguous() && table.is_contiguous() && ids.is_contiguous(),
          "embedding: {} from ids {} and table {}", y.shape.text(), ids.shape.text(),
          table.shape.text());
    CHECK(
        !positions || (positions.elements() == ids.elements() && position_table.shape.rank() == 2 &&
                       position_table.dim(1) == width && position_table.dtype == table.dtype &&
                       position_table.is_contiguous() && positions.is_contiguous()),
        "embedding: positions {} and their table {} do not fit {}", positions.shape.text(),
        position_table.shape.text(), y.shape.text());
    check_ids("token id", ids, rows.total);
    if (positions) check_ids("position", positions, position_table.dim(0));
    const int32_t* id = ids.as<int32_t>();
    const int32_t* position = positions ? positions.as<int32_t>() : nullptr;
    with_float_type(y.dtype, "embedding_forward", [&]<typename T>(T) {
        T* out = y.as<T>();
        const T* tokens = table.as<T>();
        const T* places = position ? position_table.as<T>() : nullptr;
        const std::vector<T> zeros(static_cast<size_t>(width), T(0.0f));
        parallel_for(stream, ids.elements(), row_grain(width), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t v = id[i] - rows.first;
                const T* token = v >= 0 && v < held ? tokens + v * width : zeros.data();
                if (places)
                    add_rows(out + i * width, token, places + position[i] * width, width);
                else
                    std::memcpy(out + i * width, token, static_cast<size_t>(width) * sizeof(T));
            }
        });
    });
}

void embedding_backward(View dtable, ConstView dy, ConstView ids, TableRows rows, bool accumulates,
                        Stream& stream) {
    const int64_t held = dtable.dim(0), width = dtable.dim(1);
    CHECK(dy.dim(-1) == width && dy.shape.rows() == ids.elements() && dy.is_contiguous() &&
              dtable.is_contiguous() && ids.is_contiguous(),
          "embedding: gradient {} of ids {} for table {}", dy.shape.text(), ids.shape.text(),
          dtable.shape.text());
    const Buckets buckets(ids, rows.first, held);
    if (ids.elements() == 0 && accumulates) return;
    float* sums = dtable.as<float>();
    with_float_type(dy.dtype, "embedding_backward", [&]<typename T>(T) {
        const T* rows_of_dy = dy.as<T>();
        parallel_for(stream, held, row_grain(width), [&](int64_t begin, int64_t end) {
            std::vector<float> finished(static_cast<size_t>(accumulates ? width : 0));
            for (int64_t v = begin; v < end; ++v) {
                float* row = sums + v * width;
                sum_rows(accumulates ? finished.data() : row, rows_of_dy, buckets,
                         static_cast<size_t>(v), width);
                if (accumulates) add_rows(row, row, finished.data(), width);
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
