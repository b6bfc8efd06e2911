// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth::kernels::cuda {

/// What a kernel found wrong with its data. It lies in host memory that the device can write; the
/// first writer wins, and the next Stream::synchronize throws it.
struct Fault {
    enum Code : int32_t {
        none = 0,
        token_outside_vocabulary,   ///< value, row, limit
        position_without_row,       ///< value, row, limit
        target_outside_vocabulary,  ///< value, row, limit
        cache_is_full,              ///< value, row, limit
        sample_without_label,       ///< row
        row_does_not_ascend,        ///< value, row, limit
    };
    int32_t code = none;
    int32_t is_complete = 0;  ///< the fields below are written
    int64_t value = 0;        ///< the offending number
    int64_t row = 0;          ///< where it stood
    int64_t limit = 0;        ///< it should be in [0, limit)
};

#if defined(__CUDACC__)
/// From any thread of a kernel.
__device__ inline void report(Fault* fault, Fault::Code code, int64_t value, int64_t row,
                              int64_t limit) {
    if (atomicCAS_system(&fault->code, int32_t{Fault::none}, static_cast<int32_t>(code)) !=
        Fault::none)
        return;
    fault->value = value;
    fault->row = row;
    fault->limit = limit;
    __threadfence_system();
    fault->is_complete = 1;
}
#endif

}  // namespace plinth::kernels::cuda
