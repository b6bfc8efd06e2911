// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "core/tensor/tensor.h"

namespace plinth::core {

/// The shape with another last dim.
inline Shape with_last_dim(const Shape& shape, int64_t last) {
    int64_t dims[max_dims];
    std::copy(shape.dims().begin(), shape.dims().end(), dims);
    dims[shape.rank() - 1] = last;
    return Shape(std::span<const int64_t>(dims, static_cast<size_t>(shape.rank())));
}

/// The shape with another first dim.
inline Shape with_first_dim(const Shape& shape, int64_t first) {
    int64_t dims[max_dims];
    std::copy(shape.dims().begin(), shape.dims().end(), dims);
    dims[0] = first;
    return Shape(std::span<const int64_t>(dims, static_cast<size_t>(shape.rank())));
}

/// [..., N] as a matrix [rows, N].
inline Tensor as_matrix(const Tensor& x) {
    return x.reshape({x.shape().rows(), x.dim(-1)});
}

}  // namespace plinth::core
