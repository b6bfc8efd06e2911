// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace plinth::core {

/// A tensor kept for the backward pass: its memory, or the recipe to make it again where it has
/// one. Taking it out after its storage was changed in place is an error.
class SavedTensor {
  public:
    SavedTensor() = default;
    explicit SavedTensor(const Tensor& tensor);
    /// Made again at each call where a recipe was kept. `op` names the node in the error.
    Tensor get(const char* op) const;
    /// Allows changing the tensor in place: its node is the last reader.
    Tensor take_for_writing(const char* op);

  private:
    Tensor tensor_;
    uint64_t version_ = 0;
    std::shared_ptr<const Recipe> recipe_;
};

class WeightHalves;

/// What a node's backward halves see: the gradients of its outputs, and a place for those of its
/// inputs.
class NodeGradients {
  public:
    /// Gradient of output i; undefined when nothing depended on it.
    const Tensor& of_output(size_t i) const { return outputs_[i]; }
    /// The same, handed over: it may be overwritten where it has no other owner.
    Tensor take_output(size_t i) { return std::move(outputs_[i]); }
    /// True if the gradient of input i is wanted by anyone.
    bool wants_input(size_t i) const { return wanted_[i]; }
    void set_input(size_t i, Tensor gradient);
    /// For an input half whose weight half needs the gradients of the outputs no more: frees them
    /// where the weight half is put off.
    void drop_outputs() { outputs_.clear(); }
    /// Where weight halves go that are put off; null where each follows its input half. A node that
    /// runs a tape of its own hands it on.
    WeightHalves* later() const { return later_; }

  private:
    friend class Tape;
    std::vector<Tensor> outputs_;
    std::vector<bool> wanted_;
    std::vector<Tensor> inputs_;
    WeightHalves* later_ = nullptr;
};

/// Weight halves that a backward pass has put off, first in first out: run later, they give the
/// same bits in the same order (zero-bubble pipelines run them where a stage would wait).
class WeightHalves {
  public:
    /// Runs all, freeing each when done; `after_half` runs between them.
    void run(const std::function<void()>& after_half = {});
    size_t size() const { return halves_.size(); }

  private:
    friend class Tape;
    struct Half {
        std::function<void(NodeGradients&)> weight_grad;
        NodeGradients gradients;
    };
    std::deque<Half> halves_;
};

/// One recorded operation. It keeps, in its two closures, exactly what its backward needs.
struct Node {
    const char* op = "";
    std::vector<int32_t>
        inputs;  ///< value indices on the tape, -1 for an input that needs no gradient
    std::vector<int32_t> outputs;                    ///< value indices on the tape
    std::function<void(NodeGradients&)> input_grad;  ///< gradients of the inputs
    std::function<void(NodeGradients&)>
        weight_grad;  ///< gradients of parameters; may be empty, may run later
};

/// A tensor's place on the tape and the gradient of the loss with respect to it. The tensor's
/// memory is not needed.
struct Root {
    Root(Tensor tensor, Tensor gradient_of_it)
        : edge(tensor.edge()), gradient(std::move(gradient_of_it)) {}
    Root(GradientEdge of, Tensor gradient_of_it) : edge(of), gradient(std::move(gradient_of_it)) {}

    GradientEdge edge;
    Tensor gradient;
};

/// The operations of one micro-batch and model chunk in order. The backward pass walks the list in
/// reverse, so that the sums at a fan-out have one order. Not thread safe; no second derivative.
class Tape {
  public:
    Tape();
    Tape(const Tape&) = delete;
    Tape& operator=(const Tape&) = delete;

    /// Makes `tensor` a value whose gradient can be asked for (a leaf, such as a stage's input).
    void watch(Tensor& tensor);

    /// Records a node if an input is on this tape or `has_parameters`, and gives the outputs their
    /// edges. Otherwise the outputs stay without edges and the closures are dropped.
    void record(const char* op, std::initializer_list<const Tensor*> inputs,
                std::initializer_list<Tensor*> outputs,
                std::function<void(NodeGradients&)> input_grad,
                std::function<void(NodeGradients&)> weight_grad = {}, bool has_parameters = false);

    /// Runs all nodes in reverse, freeing each when done, and returns the gradients of `wanted`
    /// (undefined where the roots do not depend on one). `after_node` runs between nodes:
    /// communication is progressed there. With `later` only the input halves run, and the weight
    /// halves are added to it. A tape runs backward once.
    std::vector<Tensor> backward(std::vector<Root> roots, std::span<const Tensor> wanted = {},
                                 const std::function<void()>& after_node = {},
                                 WeightHalves* later = nullptr);

    size_t size() const { return nodes_.size(); }

  private:
    int32_t value_of(const GradientEdge& edge) const {
        return edge.tape == serial_ ? edge.value : -1;
    }
    int32_t value_of(const Tensor& tensor) const { return value_of(tensor.edge()); }
    void add_gradient(int32_t value, Tensor gradient);
    void run_backward(Node& node, WeightHalves* later);

    uint64_t serial_;
    int32_t values_ = 0;
    std::vector<Node> nodes_;
    std::vector<Tensor> gradients_;  ///< by value, while going backward
};

}  // namespace plinth::core
