// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/parameter.h"

#include "core/autograd/scope.h"
#include "kernels/cast.h"

namespace plinth::core {

void Parameter::materialize(Tensor master) {
    CHECK(master.shape() == shard_.local_shape && master.dtype() == DType::f32,
          "{}: storage of shape {} for a {}", name(), master.shape().text(),
          shard_.local_shape.text());
    master_ = std::move(master);
    changed();
}

const Tensor& Parameter::acquire(DType dtype) {
    CHECK(is_materialized(), "{}: used before it has storage", name());
    if (dtype == DType::f32) return master_;
    if (derived_version_ != version_) {
        Scope& scope = Scope::current();
        if (!derived_.defined()) derived_ = scope.empty(master_.shape(), dtype);
        CHECK(derived_.dtype() == dtype, "{}: wanted as {} and as {}", name(), name_of(dtype),
              name_of(derived_.dtype()));
        kernels::cast(derived_.out(), master_.in(), scope.stream());
        derived_version_ = version_;
    }
    return derived_;
}

void Parameter::add_gradient(int use, FunctionRef<void(View dweight)> product) {
    CHECK(sink_ != nullptr, "{}: a gradient arrived but nothing collects it", name());
    sink_->add(*this, use, product);
}

}  // namespace plinth::core
