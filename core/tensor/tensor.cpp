// SPDX-License-Identifier: Apache-2.0
#include "core/tensor/tensor.h"

namespace plinth::core {

Tensor Tensor::empty(const Shape& shape, DType dtype, CachingAllocator& allocator) {
    Tensor tensor;
    tensor.storage_ = std::make_shared<Storage>(
        allocator, static_cast<size_t>(shape.elements()) * size_of(dtype));
    tensor.shape_ = shape;
    tensor.strides_ = row_major(shape);
    tensor.dtype_ = dtype;
    return tensor;
}

Tensor Tensor::borrow(void* data, const Shape& shape, DType dtype, Device device) {
    Tensor tensor;
    tensor.storage_ = std::make_shared<Storage>(
        data, static_cast<size_t>(shape.elements()) * size_of(dtype), device);
    tensor.shape_ = shape;
    tensor.strides_ = row_major(shape);
    tensor.dtype_ = dtype;
    return tensor;
}

ConstView Tensor::in() const {
    if (!storage_) return {};
    return {static_cast<const std::byte*>(storage_->data()) + byte_offset_, dtype_, shape_,
            strides_, storage_->device()};
}

View Tensor::out() {
    if (!storage_) return {};
    storage_->changed();
    return {static_cast<std::byte*>(storage_->data()) + byte_offset_, dtype_, shape_, strides_,
            storage_->device()};
}

Tensor Tensor::reshape(const Shape& shape) const {
    CHECK(is_contiguous() && shape.elements() == elements(), "reshape of {} to {}", shape_.text(),
          shape.text());
    Tensor tensor = *this;
    tensor.recipe_ = nullptr;
    tensor.shape_ = shape;
    tensor.strides_ = row_major(shape);
    return tensor;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
    CHECK(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0],
          "rows [{}, {}) of {}", begin, end, shape_.text());
    Tensor tensor = detach();
    tensor.recipe_ = nullptr;
    int64_t dims[max_dims];
    std::copy(shape_.dims().begin(), shape_.dims().end(), dims);
    dims[0] = end - begin;
    tensor.shape_ = Shape(std::span<const int64_t>(dims, static_cast<size_t>(shape_.rank())));
    tensor.byte_offset_ += static_cast<size_t>(begin * strides_[0]) * size_of(dtype_);
    return tensor;
}

Tensor Tensor::extended(int64_t rows) const {
    CHECK(shape_.rank() > 0 && is_contiguous() && rows >= shape_[0], "{} rows of {}", rows,
          shape_.text());
    const size_t row = static_cast<size_t>(strides_[0]) * size_of(dtype_);
    CHECK(byte_offset_ + static_cast<size_t>(rows) * row <= storage_->bytes(),
          "{} rows of {}: its storage ends before", rows, shape_.text());
    Tensor tensor = detach();
    tensor.recipe_ = nullptr;
    int64_t dims[max_dims];
    std::copy(shape_.dims().begin(), shape_.dims().end(), dims);
    dims[0] = rows;
    tensor.shape_ = Shape(std::span<const int64_t>(dims, static_cast<size_t>(shape_.rank())));
    return tensor;
}

Tensor Tensor::detach() const {
    Tensor tensor = *this;
    tensor.edge_ = {};
    return tensor;
}

}  // namespace plinth::core
