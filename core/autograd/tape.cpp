// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/tape.h"

#include <atomic>

#include "core/autograd/scope.h"
#include "kernels/add.h"
#include "kernels/runtime/trace.h"

namespace plinth::core {

SavedTensor::SavedTensor(const Tensor& tensor) {
    if (!tensor.defined()) return;
    recipe_ = tensor.recipe();
    if (recipe_) return;
    tensor_ = tensor.detach();
    version_ = tensor.storage()->version();
    tensor.storage()->set_kept();
}

Tensor SavedTensor::get(const char* op) const {
    if (recipe_) return recipe_->make();
    CHECK(!tensor_.defined() || tensor_.storage()->version() == version_,
          "{}: a tensor saved for the backward pass was changed in place", op);
    return tensor_;
}

Tensor SavedTensor::take_for_writing(const char* op) {
    Tensor tensor = get(op);
    tensor_ = {};
    return tensor;
}

void NodeGradients::set_input(size_t i, Tensor gradient) {
    CHECK(wanted_[i] && !inputs_[i].defined(),
          "the gradient of input {} is not wanted, or set twice", i);
    inputs_[i] = std::move(gradient);
}

void WeightHalves::run(const std::function<void()>& after_half) {
    while (!halves_.empty()) {
        Half half = std::move(halves_.front());
        halves_.pop_front();
        half.weight_grad(half.gradients);
        if (after_half) after_half();
    }
}

namespace {
uint64_t next_serial() {
    static std::atomic<uint64_t> serial{0};  // identity of tapes only: no result depends on it
    return ++serial;
}
}  // namespace

Tape::Tape() : serial_(next_serial()) {}

void Tape::watch(Tensor& tensor) {
    tensor.set_edge({serial_, values_++});
}

void Tape::record(const char* op, std::initializer_list<const Tensor*> inputs,
                  std::initializer_list<Tensor*> outputs,
                  std::function<void(NodeGradients&)> input_grad,
                  std::function<void(NodeGradients&)> weight_grad, bool has_parameters) {
    Node node{.op = op,
              .inputs = {},
              .outputs = {},
              .input_grad = std::move(input_grad),
              .weight_grad = std::move(weight_grad)};
    bool needed = has_parameters;
    for (const Tensor* input : inputs) {
        node.inputs.push_back(value_of(*input));
        needed = needed || node.inputs.back() >= 0;
    }
    if (!needed) return;
    for (Tensor* output : outputs) {
        watch(*output);
        node.outputs.push_back(output->edge().value);
    }
    nodes_.push_back(std::move(node));
}

void Tape::add_gradient(int32_t value, Tensor gradient) {
    Tensor& sum = gradients_[static_cast<size_t>(value)];
    if (!sum.defined()) {
        sum = std::move(gradient);
        return;
    }
    Scope& scope = Scope::current();
    CHECK(sum.elements() == gradient.elements(), "gradients of {} and {} for one value",
          sum.shape().text(), gradient.shape().text());
    Tensor total = sum.is_sole_owner() ? sum : scope.empty(sum.shape(), sum.dtype());
    kernels::add(total.out(), sum.in(), gradient.in(), scope.stream());
    sum = std::move(total);
}

void Tape::run_backward(Node& node, WeightHalves* later) {
    NodeGradients gradients;
    gradients.later_ = later;
    bool reached = false;
    for (int32_t output : node.outputs) {
        gradients.outputs_.push_back(std::move(gradients_[static_cast<size_t>(output)]));
        reached = reached || gradients.outputs_.back().defined();
    }
    if (!reached) return;
    for (int32_t input : node.inputs)
        gradients.wanted_.push_back(input >= 0);
    gradients.inputs_.resize(node.inputs.size());
    const TraceRange range(node.op);
    if (node.input_grad) node.input_grad(gradients);
    std::vector<Tensor> of_inputs = std::move(gradients.inputs_);
    if (node.weight_grad && !later) node.weight_grad(gradients);
    if (node.weight_grad && later)
        later->halves_.push_back({std::move(node.weight_grad), std::move(gradients)});
    gradients.outputs_.clear();
    for (size_t i = 0; i < node.inputs.size(); ++i)
        if (of_inputs[i].defined()) add_gradient(node.inputs[i], std::move(of_inputs[i]));
}

std::vector<Tensor> Tape::backward(std::vector<Root> roots, std::span<const Tensor> wanted,
                                   const std::function<void()>& after_node, WeightHalves* later) {
    gradients_.assign(static_cast<size_t>(values_), Tensor{});
    for (Root& root : roots) {
        const int32_t value = value_of(root.edge);
        CHECK(value >= 0, "a root of the backward pass is not on this tape");
        add_gradient(value, std::move(root.gradient));
    }
    // Gradients of wanted leaves stay; every other one is consumed by the node that produced its
    // value.
    while (!nodes_.empty()) {
        run_backward(nodes_.back(), later);
        nodes_.pop_back();
        if (after_node) after_node();
    }
    std::vector<Tensor> result;
    for (const Tensor& tensor : wanted) {
        const int32_t value = value_of(tensor);
        result.push_back(value >= 0 ? gradients_[static_cast<size_t>(value)] : Tensor{});
    }
    gradients_.clear();
    return result;
}

}  // namespace plinth::core
