// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/fp8_source.h"

#include "core/autograd/scope.h"

namespace plinth::core {

void CurrentScaling::begin_step(Stream&) {
    kept_.clear();
}

Tensor CurrentScaling::current_scale(Fp8Role role, const Tensor& x) {
    const Scope& scope = Scope::current();
    Tensor scale = scope.empty({1}, DType::f32);
    kernels::fp8_scale(scale.out(), x.in(), format_of(role), scope.stream());
    return scale;
}

CurrentScaling::Scale CurrentScaling::scale_of(const Parameter&, Fp8Role role, const Tensor& x) {
    return {current_scale(role, x)};
}

Fp8Tensor CurrentScaling::made(const Fp8Request& request, const Tensor& x,
                               CachingAllocator& allocator) {
    const Scale scale =
        request.scale.defined() ? Scale{request.scale} : scale_of(request.weight, request.role, x);
    Fp8Tensor result{
        .bits = {}, .transposed = {}, .scale = scale.value, .format = format_of(request.role)};
    View bits, transposed;
    if (request.bits) {
        result.bits = Tensor::empty(x.shape(), DType::u8, allocator);
        bits = result.bits.out();
    }
    if (request.transposed) {
        result.transposed = Tensor::empty({x.dim(1), x.dim(0)}, DType::u8, allocator);
        transposed = result.transposed.out();
    }
    kernels::fp8_quantize(bits, transposed, scale.largest, x.in(), scale.value.in(), result.format,
                          Scope::current().stream());
    return result;
}

Fp8Tensor CurrentScaling::quantize(const Fp8Request& request, const Tensor& x) {
    return made(request, x, Scope::current().allocator());
}

Fp8Tensor CurrentScaling::weight(Parameter& weight, bool transposed) {
    if (const auto found = kept_.find(&weight); found != kept_.end()) return found->second;
    const Tensor& values = weight.acquire(Scope::current().compute());
    const Fp8Tensor result = made({.weight = weight,
                                   .role = Fp8Role::weight,
                                   .bits = keeps_weights_ || !transposed,
                                   .transposed = keeps_weights_ || transposed},
                                  values, weights_);
    weight.release();
    if (keeps_weights_) kept_.emplace(&weight, result);
    return result;
}

}  // namespace plinth::core
