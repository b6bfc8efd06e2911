// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/simd.h"

namespace plinth {

/// Which elements of a whole tensor, by their row-major number, those of a part are: rows of
/// `width` elements whose first ones are `stride` apart. As it stands, all of one row: element i is
/// number first + i.
struct ElementRows {
    static constexpr int64_t endless = std::numeric_limits<int64_t>::max();

    int64_t first = 0;        ///< number of the first row's first element
    int64_t skipped = 0;      ///< of the first row, elements before the part; below `width`
    int64_t width = endless;  ///< at least 1
    int64_t stride = 0;

    /// The number of element i of the part.
    PLINTH_HOST_DEVICE int64_t operator[](int64_t i) const {
        const int64_t at = i + skipped;
        const int64_t row = at < width ? 0 : at / width;
        return first + row * stride + (at - row * width);
    }
    /// The element of the part with which the row after that of element i begins.
    int64_t row_end(int64_t i) const {
        const int64_t at = i + skipped;
        return at < width ? width - skipped : (at / width + 1) * width - skipped;
    }
    /// True if every four elements of the part from a multiple of 4 on have four numbers from a
    /// multiple of 4 on.
    bool keeps_quadruples() const {
        return first % 4 == 0 && skipped % 4 == 0 &&
               (width == endless || (width % 4 == 0 && stride % 4 == 0));
    }
    bool is_sound() const { return first >= 0 && skipped >= 0 && width > skipped && stride >= 0; }
};

}  // namespace plinth
