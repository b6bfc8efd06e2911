// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth::kernels::cuda {

/// What a kernel found wrong with its data. It lies in host memory that the device can write, where
/// not every machine has atomics: the first to change `*writer`, in device memory, writes it. The
/// next Stream::synchronize throws it.
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
    int64_t value = 0;          ///< the offending number
    int64_t row = 0;            ///< where it stood
    int64_t limit = 0;          ///< it should be in [0, limit)
    int32_t* writer = nullptr;  ///< 0 before there is a fault
};

#if defined(__CUDACC__)
/// From any thread of a kernel.
__device__ inline void report(Fault* fault, Fault::Code code, int64_t value, int64_t row,
                              int64_t limit) {
    if (atomicCAS(fault->writer, 0, 1) != 0) return;
    fault->value = value;
    fault->row = row;
    fault->limit = limit;
    __threadfence_system();  // the host may look while kernels run: the code comes last
    fault->code = code;
}
#endif

}  // namespace plinth::kernels::cuda
