// SPDX-License-Identifier: Apache-2.0
#include "core/ops/qk_norm.h"

#include "core/autograd/scope.h"

namespace plinth::core::ops {

namespace {

/// The parameters of both kinds of heads, held while a kernel reads them.
struct Weights {
    Parameter& q;
    Parameter& k;

    template <typename Body>
    void with(Body&& body) const {
        // In this order on all compilers: it decides what ZeRO 3 gathers.
        const ConstView of_q = q.acquire(DType::f32).in();
        const ConstView of_k = k.acquire(DType::f32).in();
        body(of_q, of_k);
        q.release();
        k.release();
    }
};

}  // namespace

Tensor qk_norm(const Tensor& qkv, Parameter& q_weight, Parameter& k_weight,
               const kernels::QkNorm& options) {
    Scope& scope = Scope::current();
    const int64_t width = qkv.dim(-1) / (options.heads + 2 * options.kv_heads);
    for (const Parameter* weight : {&q_weight, &k_weight})
        CHECK(weight->shape().elements() == width, "{}: heads of width {} in {} do not fit {}",
              weight->name(), width, qkv.shape().text(), weight->shape().text());
    const Weights weights{q_weight, k_weight};
    Tensor y = scope.empty(qkv.shape(), qkv.dtype());
    Tensor rstd = scope.empty({qkv.shape().rows(), options.heads + options.kv_heads}, DType::f32);
    weights.with([&](ConstView q, ConstView k) {
        kernels::qk_norm_forward(y.out(), rstd.out(), qkv.in(), q, k, options, scope.stream());
    });
    if (!scope.tape()) return y;
    const SavedTensor saved_qkv(qkv), saved_rstd(rstd);
    scope.tape()->record(
        "qk_norm", {&qkv}, {&y},
        [=](NodeGradients& gradients) {
            if (!gradients.wants_input(0)) return;
            Scope& now = Scope::current();
            const Tensor& x = saved_qkv.get("qk_norm");
            Tensor dx = now.empty(x.shape(), x.dtype());
            weights.with([&](ConstView q, ConstView k) {
                kernels::qk_norm_input_grad(dx.out(), gradients.of_output(0).in(), x.in(),
                                            saved_rstd.get("qk_norm").in(), q, k, options,
                                            now.stream());
            });
            gradients.set_input(0, std::move(dx));
        },
        [=](NodeGradients& gradients) {
            for (bool of_keys : {false, true})
                (of_keys ? weights.k : weights.q).add_gradient(0, [&](View dweight) {
                    kernels::qk_norm_weight_grad(dweight, gradients.of_output(0).in(),
                                                 saved_qkv.get("qk_norm").in(),
                                                 saved_rstd.get("qk_norm").in(), of_keys, options,
                                                 Scope::current().stream());
                });
        },
        /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
