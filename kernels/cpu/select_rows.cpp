// SPDX-License-Identifier: Apache-2.0
#include "kernels/select_rows.h"

#include <cstring>

#include "kernels/cpu/elementwise.h"

namespace plinth::kernels::cpu {

namespace {

void check_rows(const char* kernel, ConstView few, ConstView many, ConstView rows) {
    CHECK(few.shape.rank() == 2 && many.shape.rank() == 2 && few.dim(1) == many.dim(1) &&
              few.dim(0) == rows.elements() && few.dtype == many.dtype && few.is_contiguous() &&
              many.is_contiguous() && rows.is_contiguous(),
          "{}: rows {} of {} as {}", kernel, rows.shape.text(), many.shape.text(),
          few.shape.text());
    const int32_t* row = rows.as<int32_t>();
    for (int64_t r = 0; r < rows.elements(); ++r)
        CHECK(row[r] > (r == 0 ? -1 : row[r - 1]) && row[r] < many.dim(0),
              "{}: row {} (number {}) does not ascend within {} rows", kernel, row[r], r,
              many.dim(0));
}

}  // namespace

void find_labelled_rows(View rows, View labels, ConstView targets, int32_t ignored_target,
                        Stream&) {
    const int64_t samples = targets.dim(0), length = targets.dim(1);
    CHECK(rows.elements() == samples && labels.elements() == samples && targets.is_contiguous(),
          "find_labelled_rows: {} rows and {} labels of targets {}", rows.elements(),
          labels.elements(), targets.shape.text());
    const int32_t* target = targets.as<int32_t>();
    for (int64_t b = 0; b < samples; ++b) {
        const int32_t* begin = target + b * length;
        const int32_t* found = std::find_if(begin, begin + length,
                                            [=](int32_t value) { return value != ignored_target; });
        REQUIRE(data, found != begin + length, "sample {} of the micro-batch has no label", b);
        rows.as<int32_t>()[b] = static_cast<int32_t>(found - target);
        labels.as<int32_t>()[b] = *found;
    }
}

void select_rows_forward(View y, ConstView x, ConstView rows, Stream& stream) {
    check_rows("select_rows_forward", y, x, rows);
    const size_t bytes = static_cast<size_t>(y.dim(1)) * size_of(y.dtype);
    const int32_t* row = rows.as<int32_t>();
    auto* out = static_cast<std::byte*>(y.data);
    const auto* in = static_cast<const std::byte*>(x.data);
    parallel_for(stream, y.dim(0), row_grain(y.dim(1)), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            std::memcpy(out + static_cast<size_t>(r) * bytes,
                        in + static_cast<size_t>(row[r]) * bytes, bytes);
    });
}

void select_rows_backward(View dx, ConstView dy, ConstView rows, Stream& stream) {
    check_rows("select_rows_backward", dy, dx, rows);
    const size_t bytes = static_cast<size_t>(dx.dim(1)) * size_of(dx.dtype);
    const int32_t* first = rows.as<int32_t>();
    const int32_t* last = first + rows.elements();
    auto* out = static_cast<std::byte*>(dx.data);
    const auto* in = static_cast<const std::byte*>(dy.data);
    parallel_for(stream, dx.dim(0), row_grain(dx.dim(1)), [&](int64_t begin, int64_t end) {
        std::memset(out + static_cast<size_t>(begin) * bytes, 0,
                    static_cast<size_t>(end - begin) * bytes);
        for (const int32_t* row = std::lower_bound(first, last, begin); row != last && *row < end;
             ++row)
            std::memcpy(out + static_cast<size_t>(*row) * bytes,
                        in + static_cast<size_t>(row - first) * bytes, bytes);
    });
}

}  // namespace plinth::kernels::cpu
