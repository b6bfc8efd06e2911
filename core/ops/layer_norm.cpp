// SPDX-License-Identifier: Apache-2.0
#include "core/ops/layer_norm.h"

#include "core/autograd/scope.h"
#include "kernels/layer_norm.h"
#include "kernels/matmul.h"

namespace plinth::core::ops {

namespace {

/// What the halves of the backward pass share: the input half reads dy and x anyway, so it also
/// makes the block sums of the weight gradients.
struct Saved {
    SavedTensor x, mean, rstd;
    Tensor dweight_blocks, dbias_blocks;
};

void layer_norm_input_grad(NodeGradients& gradients, Saved& saved, Parameter& weight,
                           bool has_bias) {
    Scope& scope = Scope::current();
    SumGradients of_sum(gradients);
    if (const Tensor& dy = gradients.of_output(1); dy.defined()) {
        const Tensor x = saved.x.get("layer_norm");
        const Shape blocks{kernels::norm_blocks(x.shape().rows()), x.dim(-1)};
        saved.dweight_blocks = scope.empty(blocks, DType::f32);
        if (has_bias) saved.dbias_blocks = scope.empty(blocks, DType::f32);
        kernels::layer_norm_backward(
            of_sum.dx.out(), saved.dweight_blocks.out(), saved.dbias_blocks.out(), dy.in(),
            of_sum.dsum.in(), x.in(), weight.acquire(DType::f32).in(),
            saved.mean.get("layer_norm").in(), saved.rstd.get("layer_norm").in(), scope.stream());
        weight.release();
        of_sum.finish(gradients);
    }
    saved.x = saved.mean = saved.rstd = {};
    gradients.drop_outputs();
}

void add_block_sums(Parameter& parameter, const Tensor& blocks) {
    parameter.add_gradient(0, [&](View gradient) {
        kernels::column_sum(gradient, blocks.in(), Scope::current().stream());
    });
}

struct Result {
    Tensor y, mean, rstd;
};

/// With a branch, `sum` is written, else it is x.
Result forward(Tensor& sum, const Tensor& x, const Tensor& branch, Parameter& weight,
               Parameter* bias, double eps) {
    const Scope& scope = Scope::current();
    const Shape rows{x.shape().rows()};
    Result result{scope.empty(x.shape(), x.dtype()), scope.empty(rows, DType::f32),
                  scope.empty(rows, DType::f32)};
    // Before the weight, on all compilers: the order of reads decides what ZeRO 3 gathers.
    const ConstView shift = bias ? bias->acquire(DType::f32).in() : ConstView{};
    kernels::layer_norm_forward(result.y.out(), result.mean.out(), result.rstd.out(),
                                branch.defined() ? sum.out() : View{}, x.in(), branch.in(),
                                weight.acquire(DType::f32).in(), shift, static_cast<float>(eps),
                                scope.stream());
    weight.release();
    if (bias) bias->release();
    return result;
}

}  // namespace

Tensor layer_norm(const Tensor& x, Parameter& weight, Parameter* bias, double eps) {
    return layer_norm_of_sum(x, {}, weight, bias, eps).y;
}

NormedSum layer_norm_of_sum(const Tensor& x, const Tensor& branch, Parameter& weight,
                            Parameter* bias, double eps) {
    const Scope& scope = Scope::current();
    CHECK(weight.local_shape() == Shape({x.dim(-1)}), "{}: input {} does not fit weight {}",
          weight.name(), x.shape().text(), weight.local_shape().text());
    Tensor sum = place_for_sum(x, branch, weight);
    auto [y, mean, rstd] = forward(sum, x, branch, weight, bias, eps);
    if (scope.remakes())
        y.set_recipe([&weight, bias, eps, kept = SavedTensor(sum)] {
            Tensor again = kept.get("layer_norm");
            return forward(again, again, {}, weight, bias, eps).y;
        });
    if (scope.tape()) {
        auto saved = std::make_shared<Saved>(
            Saved{SavedTensor(sum), SavedTensor(mean), SavedTensor(rstd), {}, {}});
        scope.tape()->record(
            "layer_norm", {&x, &branch}, {&sum, &y},
            [saved, &weight, bias](NodeGradients& gradients) {
                layer_norm_input_grad(gradients, *saved, weight, bias != nullptr);
            },
            [saved, &weight, bias](NodeGradients&) {
                if (!saved->dweight_blocks.defined()) return;  // nothing depended on y
                add_block_sums(weight, saved->dweight_blocks);
                if (bias) add_block_sums(*bias, saved->dbias_blocks);
            },
            /*has_parameters=*/true);
    }
    return {sum, y};
}

}  // namespace plinth::core::ops
