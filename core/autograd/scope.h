// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/autograd/tape.h"
#include "core/tensor/tensor.h"
#include "kernels/runtime/step_key.h"
#include "kernels/runtime/stream.h"

namespace plinth::core {

class ActivationStore;
class Fp8Source;

/// What changes between steps.
struct StepState {
    uint64_t seed = 0;           ///< of the run: keys every random number
    int64_t step = 0;            ///< optimizer steps begun, skipped ones included
    int64_t update_count = 0;    ///< optimizer updates made: Adam's t
    double learning_rate = 0.0;  ///< of this step
};

/// The surroundings of an operation: where it allocates, where it runs, what records it. Set by
/// RAII for a thread; it is the only thread-local variable in the house.
class Scope {
  public:
    struct Settings {
        Stream* stream = nullptr;
        CachingAllocator* allocator = nullptr;
        CachingAllocator* weights = nullptr;  ///< of copies of weights; null: `allocator`
        Tape* tape = nullptr;                 ///< null: nothing is recorded
        const StepState* step = nullptr;      ///< null where no random number is drawn
        /// step->step where kernels read it, so that captured ones draw other numbers in each step;
        /// empty: it is an argument.
        std::optional<StepNumber> step_number = {};
        bool training = false;  ///< dropout on
        bool remake = false;    ///< norms and activation functions give recipes: the backward pass
                                ///< makes their outputs again instead of keeping them
        bool remake_hidden = false;  ///< so do the first products of MLPs; with `remake` only
        DType compute = DType::f32;  ///< dtype of activations and of the weights they meet
        Fp8Source* fp8 = nullptr;  ///< of products with weights that take 8-bit floats; null: none
                                   ///< is made of them
        /// Where the inputs of what runs again wait for that; null: where they are.
        ActivationStore* activations = nullptr;
    };

    explicit Scope(const Settings& settings) : settings_(settings), outer_(current_) {
        current_ = this;
    }
    ~Scope() { current_ = outer_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    /// The innermost scope of this thread; having none is an internal error.
    static Scope& current();

    Stream& stream() const { return *settings_.stream; }
    CachingAllocator& allocator() const { return *settings_.allocator; }
    CachingAllocator& weights() const {
        return settings_.weights ? *settings_.weights : *settings_.allocator;
    }
    Tape* tape() const { return settings_.tape; }
    const StepState& step() const {
        CHECK(settings_.step != nullptr, "this scope has no step state");
        return *settings_.step;
    }
    /// Of the random numbers of that name in this step.
    StepKey random_key(std::string_view purpose) const {
        const StepState& state = step();
        return {state.seed, purpose, settings_.step_number.value_or(state.step)};
    }
    bool training() const { return settings_.training; }
    /// True where an op's output should get a recipe.
    bool remakes() const { return settings_.tape && settings_.remake; }
    /// The same for the first product of an MLP.
    bool remakes_hidden() const { return remakes() && settings_.remake_hidden; }
    DType compute() const { return settings_.compute; }
    Fp8Source* fp8() const { return settings_.fp8; }
    ActivationStore* activations() const { return settings_.activations; }
    const Settings& settings() const { return settings_; }

    Tensor empty(const Shape& shape, DType dtype) const {
        return Tensor::empty(shape, dtype, allocator());
    }
    /// With a copy of `values`, where the operations run.
    template <typename T>
    Tensor of(const std::vector<T>& values, const Shape& shape) const {
        return Tensor::of(values, shape, allocator(), stream());
    }

  private:
    Settings settings_;
    Scope* outer_;
    static thread_local Scope* current_;
};

}  // namespace plinth::core
