// SPDX-License-Identifier: Apache-2.0
#include "core/ops/select_rows.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/cross_entropy.h"
#include "kernels/select_rows.h"

namespace plinth::core::ops {

LabelledRows find_labelled_rows(const Tensor& targets) {
    Scope& scope = Scope::current();
    const Shape samples{targets.dim(0)};
    LabelledRows found{scope.empty(samples, DType::i32), scope.empty(samples, DType::i32)};
    kernels::find_labelled_rows(found.rows.out(), found.labels.out(), targets.in(),
                                kernels::CrossEntropy{}.ignored_target, scope.stream());
    return found;
}

Tensor select_rows(const Tensor& x, const Tensor& rows) {
    Scope& scope = Scope::current();
    Tensor y = scope.empty({rows.elements(), x.dim(-1)}, x.dtype());
    kernels::select_rows_forward(y.out(), as_matrix(x).in(), rows.in(), scope.stream());
    if (scope.tape())
        scope.tape()->record(
            "select_rows", {&x}, {&y},
            [rows = SavedTensor(rows), shape = x.shape()](NodeGradients& gradients) {
                const Tensor& dy = gradients.of_output(0);
                Tensor dx = Scope::current().empty(shape, dy.dtype());
                Tensor flat = as_matrix(dx);
                kernels::select_rows_backward(flat.out(), dy.in(), rows.get("select_rows").in(),
                                              Scope::current().stream());
                gradients.set_input(0, std::move(dx));
            });
    return y;
}

}  // namespace plinth::core::ops
