// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "kernels/runtime/error.h"

namespace plinth {

inline constexpr int max_dims = 6;

/// Extents of a tensor, outermost first. At most six dims; no dims is a scalar. Extents may be 0.
class Shape {
  public:
    Shape() = default;
    Shape(std::initializer_list<int64_t> dims)
        : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
    explicit Shape(std::span<const int64_t> dims) {
        CHECK(dims.size() <= max_dims, "a shape has at most {} dims, got {}", max_dims,
              dims.size());
        for (int64_t dim : dims) {
            CHECK(dim >= 0, "a dim cannot be negative, got {}", dim);
            dims_[static_cast<size_t>(rank_++)] = dim;
        }
    }

    int rank() const { return rank_; }
    /// Dim i; negative i counts from the last.
    int64_t operator[](int i) const {
        const int index = i < 0 ? rank_ + i : i;
        CHECK(index >= 0 && index < rank_, "dim {} of a shape with {} dims", i, rank_);
        return dims_[static_cast<size_t>(index)];
    }
    int64_t elements() const {
        int64_t n = 1;
        for (int i = 0; i < rank_; ++i)
            n *= dims_[static_cast<size_t>(i)];
        return n;
    }
    /// Product of all dims but the last: the row count of row-wise kernels.
    int64_t rows() const {
        int64_t n = 1;
        for (int i = 0; i + 1 < rank_; ++i)
            n *= dims_[static_cast<size_t>(i)];
        return n;
    }
    std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
    bool operator==(const Shape& other) const {
        return rank_ == other.rank_ && dims_ == other.dims_;
    }
    /// "[2, 3, 4]"
    std::string text() const { return fmt::format("[{}]", fmt::join(dims(), ", ")); }

  private:
    std::array<int64_t, max_dims> dims_{};
    int rank_ = 0;
};

}  // namespace plinth
