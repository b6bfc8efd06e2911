// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/view.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// The bytes of a contiguous view, as collectives take them.
inline ConstBytes bytes_of(ConstView view) {
    return {static_cast<const std::byte*>(view.data), view.bytes()};
}
inline Bytes bytes_of(View view) {
    return {static_cast<std::byte*>(view.data), view.bytes()};
}

/// Elements [begin, begin + count) of a contiguous view.
inline View part_of(View view, int64_t begin, int64_t count) {
    auto* data =
        static_cast<std::byte*>(view.data) + static_cast<size_t>(begin) * size_of(view.dtype);
    return View(data, view.dtype, {count}, view.device);
}

}  // namespace plinth::parallel
