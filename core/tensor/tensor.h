// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/stream.h"
#include "kernels/view.h"

namespace plinth::core {

/// A block of memory that tensors share. `version` counts in-place changes, so that the tape can
/// refuse a saved tensor that was changed before its backward pass.
class Storage {
  public:
    /// From an allocator, to which it returns the block. The allocator must outlive it.
    Storage(CachingAllocator& allocator, size_t bytes)
        : data_(allocator.allocate(bytes)),
          bytes_(bytes),
          device_(allocator.device()),
          allocator_(&allocator) {}
    /// Borrowed memory: the caller keeps it alive.
    Storage(void* data, size_t bytes, Device device)
        : data_(data), bytes_(bytes), device_(device) {}
    ~Storage() {
        if (allocator_) allocator_->free(data_, bytes_);
    }
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    void* data() const { return data_; }
    size_t bytes() const { return bytes_; }
    Device device() const { return device_; }
    uint64_t version() const { return version_; }
    void changed() { ++version_; }
    /// True once a node keeps it for its backward pass: another that reads it may keep it, too, at
    /// no cost.
    bool is_kept() const { return is_kept_; }
    void set_kept() { is_kept_ = true; }

  private:
    void* data_;
    size_t bytes_;
    Device device_;
    CachingAllocator* allocator_ = nullptr;
    uint64_t version_ = 0;
    bool is_kept_ = false;
};

/// Where a tensor stands on a tape: the value that a node produced. Tensors that no node produced
/// have none.
struct GradientEdge {
    uint64_t tape = 0;   ///< serial number of the tape, 0 for none
    int32_t value = -1;  ///< index of the value on it
    explicit operator bool() const { return value >= 0; }
};

class Tensor;

/// How to make a tensor's elements again, bit for bit, from what is kept anyway.
struct Recipe {
    std::function<Tensor()> make;
    uint64_t version = 0;  ///< of the storage when it held what `make` gives
};

/// A strided n-dimensional array: a cheap value that shares its storage. The last dim is
/// contiguous. An undefined tensor (default constructed) stands for one that is left out.
class Tensor {
  public:
    Tensor() = default;
    /// Uninitialised, contiguous, from the given allocator.
    static Tensor empty(const Shape& shape, DType dtype, CachingAllocator& allocator);
    /// A view of memory that the caller keeps alive.
    static Tensor borrow(void* data, const Shape& shape, DType dtype, Device device = {});
    /// A CPU tensor with a copy of `values`; their number must be that of the shape.
    template <typename T>
    static Tensor of(const std::vector<T>& values, const Shape& shape,
                     CachingAllocator& allocator) {
        Tensor tensor = empty(shape, DTypeOf<T>::value, allocator);
        CHECK(static_cast<int64_t>(values.size()) == shape.elements(),
              "{} values for a tensor of shape {}", values.size(), shape.text());
        std::copy(values.begin(), values.end(), tensor.data<T>());
        return tensor;
    }

    /// The same in the memory of any device; the copy is part of the stream's work.
    template <typename T>
    static Tensor of(const std::vector<T>& values, const Shape& shape, CachingAllocator& allocator,
                     Stream& stream) {
        Tensor tensor = empty(shape, DTypeOf<T>::value, allocator);
        CHECK(static_cast<int64_t>(values.size()) == shape.elements(),
              "{} values for a tensor of shape {}", values.size(), shape.text());
        stream.copy(tensor.out().data, values.data(), values.size() * sizeof(T));
        return tensor;
    }

    bool defined() const { return storage_ != nullptr; }
    const Shape& shape() const { return shape_; }
    int64_t dim(int i) const { return shape_[i]; }
    int64_t elements() const { return shape_.elements(); }
    DType dtype() const { return dtype_; }
    Device device() const { return storage_->device(); }
    bool is_contiguous() const { return in().is_contiguous(); }

    /// To read. An undefined tensor gives an empty view.
    ConstView in() const;
    /// To write: counts as an in-place change.
    View out();
    /// Elements of a contiguous CPU tensor, to read or (counted as a change) to write.
    template <typename T>
    const T* data() const {
        check_on_host();
        return in().as<T>();
    }
    template <typename T>
    T* data() {
        check_on_host();
        return out().as<T>();
    }
    template <typename T>
    std::vector<T> values() const {
        CHECK(is_contiguous(), "values() of a strided tensor of shape {}", shape_.text());
        return {data<T>(), data<T>() + elements()};
    }

    /// The elements of a contiguous tensor on any device. Waits for the stream's work.
    template <typename T>
    std::vector<T> read(Stream& stream) const {
        const ConstView view = in();
        CHECK(is_contiguous(), "read() of a strided tensor of shape {}", shape_.text());
        std::vector<T> values(static_cast<size_t>(elements()));
        stream.copy(values.data(), view.as<T>(), view.bytes());
        stream.synchronize();
        return values;
    }

    /// The same elements under another shape; the tensor must be contiguous. Keeps the gradient
    /// edge: gradients are flat.
    Tensor reshape(const Shape& shape) const;
    /// Rows [begin, end) of the first dim, sharing storage. It has no gradient edge.
    Tensor rows(int64_t begin, int64_t end) const;
    /// Rows [0, rows), where its storage goes on behind a contiguous tensor: who made the storage
    /// says what is there. It has no gradient edge.
    Tensor extended(int64_t rows) const;
    /// The same memory without a gradient edge.
    Tensor detach() const;

    /// From here on, whoever keeps this tensor for the backward pass may keep the recipe instead of
    /// the memory. Views of another shape have none, nor has a tensor that was changed since.
    void set_recipe(std::function<Tensor()> make) {
        recipe_ = std::make_shared<Recipe>(Recipe{std::move(make), storage_->version()});
    }
    std::shared_ptr<const Recipe> recipe() const {
        return recipe_ && recipe_->version == storage_->version() ? recipe_ : nullptr;
    }

    const GradientEdge& edge() const { return edge_; }
    void set_edge(GradientEdge edge) { edge_ = edge; }
    const std::shared_ptr<Storage>& storage() const { return storage_; }
    /// True if no other tensor shares the storage: it may be overwritten.
    bool is_sole_owner() const { return storage_.use_count() == 1; }

  private:
    void check_on_host() const {
        CHECK(!storage_ || device().type == DeviceType::cpu,
              "elements of a tensor of shape {} on a device", shape_.text());
    }

    std::shared_ptr<Storage> storage_;
    size_t byte_offset_ = 0;
    Shape shape_;
    Strides strides_{};
    DType dtype_ = DType::f32;
    GradientEdge edge_;
    std::shared_ptr<const Recipe> recipe_;
};

}  // namespace plinth::core
