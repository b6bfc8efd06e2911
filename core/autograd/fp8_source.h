// SPDX-License-Identifier: Apache-2.0
// R rows, C columns of a matrix.
#pragma once

#include <map>

#include "core/autograd/parameter.h"
#include "core/tensor/tensor.h"
#include "kernels/fp8.h"
#include "kernels/runtime/stream.h"

namespace plinth::core {

/// What a tensor is in the three products of a weight.
enum class Fp8Role { input, weight, gradient };
inline constexpr size_t fp8_roles = 3;
/// Gradients need range, inputs and weights precision.
inline constexpr kernels::Fp8 format_of(Fp8Role role) {
    return role == Fp8Role::gradient ? kernels::Fp8::e5m2 : kernels::Fp8::e4m3;
}

/// A matrix in 8 bits times one scale: x[R,C] is about scale * bits[R,C].
struct Fp8Tensor {
    Tensor bits;        ///< [R,C]; undefined where it was not wanted
    Tensor transposed;  ///< [C,R]; likewise
    Tensor scale;       ///< fp32 [1]
    kernels::Fp8 format = kernels::Fp8::e4m3;
};

struct Fp8Request {
    const Parameter& weight;  ///< of the product
    Fp8Role role = Fp8Role::input;
    bool bits = true;
    bool transposed = false;
    /// Of the same values, quantised before; undefined: this is the first time.
    Tensor scale = {};
};

/// Where the 8-bit tensors of a scope's products come from.
class Fp8Source {
  public:
    virtual ~Fp8Source() = default;
    /// x[R,C] of the role input or gradient.
    virtual Fp8Tensor quantize(const Fp8Request& request, const Tensor& x) = 0;
    /// The weight [N,K], at least in the layout that is wanted.
    virtual Fp8Tensor weight(Parameter& weight, bool transposed) = 0;
};

/// Current scaling: a tensor's scale takes its own largest magnitude to the format's largest
/// number. Weights are quantised from their copy in the compute dtype, which is what ranks that
/// share them gather.
class CurrentScaling : public Fp8Source {
  public:
    /// `weights` is the memory of 8-bit weights. With `keeps_weights` a weight is quantised once a
    /// step, in both layouts, else at each use.
    CurrentScaling(CachingAllocator& weights, bool keeps_weights)
        : weights_(weights), keeps_weights_(keeps_weights) {}

    /// Before the first micro-batch of a step: weights may have changed.
    virtual void begin_step(Stream& stream);
    Fp8Tensor quantize(const Fp8Request& request, const Tensor& x) override;
    Fp8Tensor weight(Parameter& weight, bool transposed) override;

  protected:
    struct Scale {
        Tensor value = {};      ///< undefined: chosen, or current scaling
        ConstView chosen = {};  ///< its value where that is more than 0; may be empty
        View largest = {};  ///< raised to the largest magnitude of what is quantised; may be empty
    };
    /// What is known of a tensor's scale before it is quantised for the first time.
    virtual Scale known_scale(const Parameter&, Fp8Role) { return {}; }

  private:
    /// A weight stays where it was made first, so that captured work may read it in later steps.
    struct Kept {
        Fp8Tensor tensor;
        Tensor scale;             ///< its own one, where it had any
        bool is_current = false;  ///< made in this step
    };
    /// In the memory of `made`, as far as there is any, which then has the rest.
    void make(Kept& made, const Fp8Request& request, const Tensor& x, CachingAllocator& allocator);

    CachingAllocator& weights_;
    bool keeps_weights_;
    std::map<const Parameter*, Kept> kept_;
};

}  // namespace plinth::core
