// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "core/tensor/tensor.h"

namespace plinth::test {

/// (f(x + step e_i) - f(x - step e_i)) / (2 step) for the elements i = 0, stride, 2 stride, ... of
/// x, an fp32 tensor in host memory that `value` reads; x is afterwards as it was. The distance is
/// that of the rounded points.
inline std::vector<double> central_differences(core::Tensor& x,
                                               const std::function<double()>& value, double step,
                                               int64_t stride = 1) {
    std::vector<double> found;
    for (int64_t i = 0; i < x.elements(); i += stride) {
        float& element = x.data<float>()[i];
        const float start = element;
        const auto above = static_cast<float>(static_cast<double>(start) + step),
                   below = static_cast<float>(static_cast<double>(start) - step);
        element = above;
        const double upper = value();
        element = below;
        const double lower = value();
        element = start;
        found.push_back((upper - lower) /
                        (static_cast<double>(above) - static_cast<double>(below)));
    }
    return found;
}

/// The elements of a gradient that stand against differences of that stride.
inline std::vector<double> each(const std::vector<double>& all, size_t stride) {
    std::vector<double> found;
    for (size_t i = 0; i < all.size(); i += stride)
        found.push_back(all[i]);
    return found;
}

}  // namespace plinth::test
