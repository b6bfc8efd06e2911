// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "kernels/runtime/device.h"
#include "kernels/runtime/dtype.h"
#include "kernels/runtime/error.h"
#include "kernels/shape.h"

namespace plinth::core {

/// The part of a global tensor that one rank holds: a box (offset, local shape) of the global
/// shape, and a flat range [begin, end) of the box's elements in row-major order (an optimizer
/// shard is not a box).
struct Shard {
    Shape global_shape;
    Shape offset;       ///< of the box, per dim
    Shape local_shape;  ///< of the box
    int64_t begin = 0;
    int64_t end = 0;

    /// The whole tensor on one rank.
    static Shard whole(const Shape& shape) {
        int64_t zeros[max_dims] = {};
        return {shape, Shape(std::span<const int64_t>(zeros, static_cast<size_t>(shape.rank()))),
                shape, 0, shape.elements()};
    }
    int64_t elements() const { return end - begin; }
    bool is_whole() const {
        return local_shape == global_shape && begin == 0 && end == local_shape.elements();
    }
    bool operator==(const Shard&) const = default;
};

/// A named piece of training state, as checkpoints and replica checks see it. `data` points at
/// `shard.elements()` contiguous elements in the device's memory.
struct StateTensor {
    std::string name;
    DType dtype = DType::f32;
    Shard shard;
    void* data = nullptr;
    Device device = {};

    size_t bytes() const { return static_cast<size_t>(shard.elements()) * size_of(dtype); }
    /// Element i of one of fp32 or bf16 in host memory, as fp32.
    float value(int64_t i) const {
        CHECK(device.type == DeviceType::cpu && (dtype == DType::f32 || dtype == DType::bf16),
              "{}: no {} that the host can read as fp32", name, name_of(dtype));
        if (dtype == DType::f32) return static_cast<const float*>(data)[i];
        return static_cast<float>(static_cast<const BFloat16*>(data)[i]);
    }
};

}  // namespace plinth::core
