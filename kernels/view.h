// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/runtime/device.h"
#include "kernels/runtime/dtype.h"
#include "kernels/runtime/error.h"
#include "kernels/shape.h"

namespace plinth {

using Strides = std::array<int64_t, max_dims>;

/// Row-major strides, in elements.
inline Strides row_major(const Shape& shape) {
    Strides strides{};
    int64_t step = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
        strides[static_cast<size_t>(i)] = step;
        step *= shape[i];
    }
    return strides;
}

/// What a kernel sees of a tensor: it owns nothing. Strides are in elements and the last dim is
/// contiguous. A view with `data == nullptr` stands for an argument that is left out.
template <typename Pointer>
struct BasicView {
    Pointer data = nullptr;
    DType dtype = DType::f32;
    Device device;
    Shape shape;
    Strides strides{};

    BasicView() = default;
    BasicView(Pointer at, DType type, const Shape& dims, Device where = {})
        : data(at), dtype(type), device(where), shape(dims), strides(row_major(dims)) {}
    BasicView(Pointer at, DType type, const Shape& dims, const Strides& steps, Device where = {})
        : data(at), dtype(type), device(where), shape(dims), strides(steps) {}
    template <typename Other>
    requires std::is_convertible_v<Other, Pointer> BasicView(
        const BasicView<Other>& other)  // NOLINT: a View is a ConstView
        : data(other.data),
          dtype(other.dtype),
          device(other.device),
          shape(other.shape),
          strides(other.strides) {}

    explicit operator bool() const { return data != nullptr; }
    int64_t dim(int i) const { return shape[i]; }
    int64_t elements() const { return shape.elements(); }
    size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
    int64_t stride(int i) const {
        return strides[static_cast<size_t>(i < 0 ? shape.rank() + i : i)];
    }
    bool is_contiguous() const {
        const Strides packed = row_major(shape);
        for (int i = 0; i < shape.rank(); ++i)
            if (shape[i] != 1 && stride(i) != packed[static_cast<size_t>(i)]) return false;
        return true;
    }

    /// Of dim `dim` only [first, first + count).
    BasicView narrow(int dim, int64_t first, int64_t count) const {
        CHECK(first >= 0 && count >= 0 && first + count <= shape[dim], "[{}, {}) of dim {} of {}",
              first, first + count, dim, shape.text());
        using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>,
                                        const std::byte, std::byte>;
        std::array<int64_t, max_dims> dims{};
        std::copy(shape.dims().begin(), shape.dims().end(), dims.begin());
        const auto rank = static_cast<size_t>(shape.rank());
        dims[static_cast<size_t>(dim)] = count;
        BasicView part = *this;
        part.shape = Shape(std::span<const int64_t>(dims.data(), rank));
        part.data =
            static_cast<Byte*>(data) + first * stride(dim) * static_cast<int64_t>(size_of(dtype));
        return part;
    }

    /// Elements as T; a view of another dtype is an internal error.
    template <typename T>
    auto* as() const {
        CHECK(DTypeOf<T>::value == dtype, "kernel expected {}, got a view of {}",
              name_of(DTypeOf<T>::value), name_of(dtype));
        if constexpr (std::is_const_v<std::remove_pointer_t<Pointer>>)
            return static_cast<const T*>(data);
        else
            return static_cast<T*>(data);
    }
};

using View = BasicView<void*>;
using ConstView = BasicView<const void*>;

}  // namespace plinth
