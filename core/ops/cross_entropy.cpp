// SPDX-License-Identifier: Apache-2.0
#include "core/ops/cross_entropy.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/cross_entropy.h"

namespace plinth::core::ops {

Loss cross_entropy(const Tensor& logits, const Tensor& targets,
                   const CrossEntropyOptions& options) {
    Scope& scope = Scope::current();
    const Tensor matrix = as_matrix(logits);
    const kernels::CrossEntropy attributes{.valid_columns = options.valid_columns,
                                           .z_loss = options.z_loss};
    const Shape rows{matrix.dim(0)};
    Tensor largest = scope.empty(rows, DType::f32), sum = scope.empty(rows, DType::f32),
           target_logit = scope.empty(rows, DType::f32), log_sum = scope.empty(rows, DType::f32);
    Loss loss{scope.empty({1}, DType::f64), scope.empty({1}, DType::i64),
              scope.empty({1}, DType::i64)};
    kernels::cross_entropy_local(largest.out(), sum.out(), target_logit.out(), matrix.in(),
                                 targets.in(), attributes, scope.stream());
    kernels::cross_entropy_finish(loss.sum.out(), loss.weight.out(), loss.correct.out(),
                                  log_sum.out(), largest.in(), sum.in(), target_logit.in(),
                                  targets.in(), attributes, scope.stream());
    if (!scope.tape()) return loss;
    scope.tape()->record(
        "cross_entropy", {&logits}, {&loss.sum},
        [logits = SavedTensor(logits), targets = SavedTensor(targets),
         log_sum = SavedTensor(log_sum), attributes](NodeGradients& gradients) mutable {
            Tensor dlogits = logits.take_for_writing("cross_entropy");
            Tensor flat = as_matrix(dlogits);
            kernels::cross_entropy_backward(
                flat.out(), gradients.of_output(0).in(), log_sum.get("cross_entropy").in(),
                targets.get("cross_entropy").in(), attributes, Scope::current().stream());
            gradients.set_input(0, std::move(dlogits));
        });
    return loss;
}

}  // namespace plinth::core::ops
