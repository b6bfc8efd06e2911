// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/parameter.h"

#include <algorithm>

#include "core/autograd/scope.h"
#include "kernels/cast.h"

namespace plinth::core {

Shape Parameter::local_shape() const {
    int64_t dims[max_dims] = {};
    const Shape& first = boxes_[0].local_shape;
    std::copy(first.dims().begin(), first.dims().end(), dims);
    for (size_t i = 1; i < boxes_.size(); ++i)
        dims[0] += boxes_[i].local_shape[0];
    return Shape(std::span<const int64_t>(dims, static_cast<size_t>(first.rank())));
}

void Parameter::place(std::vector<Shard> boxes, int64_t largest_part) {
    CHECK(!is_materialized(), "{}: placed after it got its storage", name());
    CHECK(!boxes.empty(), "{}: placed nowhere", name());
    for (const Shard& box : boxes) {
        const Shape& local = box.local_shape;
        CHECK(box.global_shape == shape() && box.begin == 0 && box.end == local.elements(),
              "{}: {} of {} is no box of it", name(), local.text(), box.global_shape.text());
        for (int dim = 1; dim < local.rank(); ++dim)
            CHECK(local[dim] == boxes[0].local_shape[dim], "{}: boxes {} and {} do not stack",
                  name(), boxes[0].local_shape.text(), local.text());
    }
    boxes_ = std::move(boxes);
    largest_part_ = largest_part;
}

void Parameter::materialize(Tensor master) {
    CHECK(master.shape() == local_shape() && master.dtype() == DType::f32,
          "{}: storage of shape {} for a {}", name(), master.shape().text(), local_shape().text());
    master_ = std::move(master);
    changed();
}

const Tensor& Parameter::acquire(DType dtype) {
    CHECK(is_materialized(), "{}: used before it has storage", name());
    ++readers_;
    if (source_) return source_->acquire(*this, dtype);
    if (dtype == DType::f32) return master_;
    if (derived_version_ != version_) {
        Scope& scope = Scope::current();
        if (!derived_.defined()) derived_ = Tensor::empty(master_.shape(), dtype, scope.weights());
        CHECK(derived_.dtype() == dtype, "{}: wanted as {} and as {}", name(), name_of(dtype),
              name_of(derived_.dtype()));
        kernels::cast(derived_.out(), master_.in(), scope.stream());
        derived_version_ = version_;
    }
    return derived_;
}

void Parameter::release() {
    CHECK(readers_ > 0, "{}: released more often than acquired", name());
    --readers_;
    if (source_) source_->release(*this);
}

void Parameter::add_gradient(int use, FunctionRef<void(View dweight)> product) {
    CHECK(sink_ != nullptr, "{}: a gradient arrived but nothing collects it", name());
    sink_->add(*this, use, product);
}

}  // namespace plinth::core
