// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/fp8_source.h"

#include "core/autograd/scope.h"

namespace plinth::core {

void CurrentScaling::begin_step(Stream&) {
    for (auto& [weight, kept] : kept_)
        kept.is_current = false;
}

void CurrentScaling::make(Kept& made, const Fp8Request& request, const Tensor& x,
                          CachingAllocator& allocator) {
    Stream& stream = Scope::current().stream();
    Fp8Tensor& result = made.tensor;
    result.format = format_of(request.role);
    Scale scale = request.scale.defined() ? Scale{.value = request.scale}
                                          : known_scale(request.weight, request.role);
    if (!scale.value.defined()) {
        if (!made.scale.defined()) made.scale = Tensor::empty({1}, DType::f32, allocator);
        kernels::fp8_scale(made.scale.out(), x.in(), scale.chosen, result.format, stream);
        scale.value = made.scale;
    }
    result.scale = scale.value;
    if (request.bits && !result.bits.defined())
        result.bits = Tensor::empty(x.shape(), DType::u8, allocator);
    if (request.transposed && !result.transposed.defined())
        result.transposed = Tensor::empty({x.dim(1), x.dim(0)}, DType::u8, allocator);
    kernels::fp8_quantize(request.bits ? result.bits.out() : View{},
                          request.transposed ? result.transposed.out() : View{}, scale.largest,
                          x.in(), scale.value.in(), result.format, stream);
    made.is_current = true;
}

Fp8Tensor CurrentScaling::quantize(const Fp8Request& request, const Tensor& x) {
    Kept made;
    make(made, request, x, Scope::current().allocator());
    return made.tensor;
}

Fp8Tensor CurrentScaling::weight(Parameter& weight, bool transposed) {
    Kept at_this_use;
    Kept& kept = keeps_weights_ ? kept_[&weight] : at_this_use;
    if (kept.is_current) return kept.tensor;
    const Tensor& values = weight.acquire(Scope::current().compute());
    make(kept,
         {.weight = weight,
          .role = Fp8Role::weight,
          .bits = keeps_weights_ || !transposed,
          .transposed = keeps_weights_ || transposed},
         values, weights_);
    weight.release();
    return kept.tensor;
}

}  // namespace plinth::core
