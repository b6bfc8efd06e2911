// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/parameter.h"

#include <algorithm>

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/add.h"
#include "kernels/cast.h"

namespace plinth::core {

Parameter::Parameter(Spec spec) : spec_(std::move(spec)), boxes_{Shard::whole(spec_.shape)} {
    CHECK(shape().rank() > 0 && spec_.row_multiple > 0, "{}: a {} in rows up to multiples of {}",
          name(), shape().text(), spec_.row_multiple);
}

Shape Parameter::local_shape() const {
    int64_t dims[max_dims] = {};
    const Shape& first = boxes_[0].local_shape;
    std::copy(first.dims().begin(), first.dims().end(), dims);
    for (size_t i = 1; i < boxes_.size(); ++i)
        dims[0] += boxes_[i].local_shape[0];
    return Shape(std::span<const int64_t>(dims, static_cast<size_t>(first.rank())));
}

void Parameter::place(std::vector<Shard> boxes, int64_t most_rows) {
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
    most_rows_ = most_rows;
}

int64_t Parameter::padded_rows(int64_t rows) const {
    const int64_t multiple = spec_.row_multiple;
    return (rows + multiple - 1) / multiple * multiple;
}

Shape Parameter::padded_shape() const {
    const Shape local = local_shape();
    return with_first_dim(local, padded_rows(local[0]));
}

int64_t Parameter::room() const {
    const Shape padded = padded_shape();
    return with_first_dim(padded, std::max(padded[0], padded_rows(most_rows_))).elements();
}

Tensor Parameter::weights_at(void* data, DType dtype, Device device) const {
    return Tensor::borrow(data, padded_shape(), dtype, device).rows(0, local_shape()[0]);
}

Tensor Parameter::padded(const Tensor& weights) const {
    CHECK(weights.shape() == local_shape(), "{}: {} are not its weights {}", name(),
          weights.shape().text(), local_shape().text());
    return weights.extended(padded_shape()[0]);
}

View Parameter::padded(View gradient) const {
    CHECK(gradient.shape == local_shape() && gradient.is_contiguous(),
          "{}: {} is not its gradient {}", name(), gradient.shape.text(), local_shape().text());
    return {gradient.data, gradient.dtype, padded_shape(), gradient.device};
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
        if (!derived_.defined()) {
            Tensor all = Tensor::empty(padded_shape(), dtype, scope.weights());
            const int64_t rows = master_.dim(0);
            if (rows < all.dim(0))
                kernels::fill(all.rows(rows, all.dim(0)).out(), 0.0f, scope.stream());
            derived_ = all.rows(0, rows);
        }
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

void Parameter::accumulate_gradient(int use,
                                    FunctionRef<void(View sum, bool accumulates)> product) {
    CHECK(sink_ != nullptr, "{}: a gradient arrived but nothing collects it", name());
    sink_->accumulate(*this, use, product);
}

}  // namespace plinth::core
