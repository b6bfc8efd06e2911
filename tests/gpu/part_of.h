// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/view.h"

namespace plinth::test {

/// The elements of a view from `first` on, as one dim. With first = 1 it begins where no vector
/// may.
inline View part_of(const View& view, int64_t first) {
    auto* data =
        static_cast<std::byte*>(view.data) + static_cast<size_t>(first) * size_of(view.dtype);
    return {data, view.dtype, Shape{view.elements() - first}, view.device};
}

}  // namespace plinth::test
