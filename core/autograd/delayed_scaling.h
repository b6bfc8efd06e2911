// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/autograd/fp8_source.h"

namespace plinth::core {

/// The largest magnitudes of the 8-bit tensors of a model in its last optimizer steps: of each
/// weight's input, of the weight, and of the gradient beside it. The same on all ranks.
class Fp8History {
  public:
    static constexpr size_t length = 16;  ///< steps

    /// Of the weights with these names.
    explicit Fp8History(std::vector<std::string> weights);

    size_t tensors() const { return weights_.size() * fp8_roles; }
    size_t index_of(const std::string& weight, Fp8Role role) const;
    /// Over the steps that are known; 0 where there is none.
    float largest(size_t tensor) const;
    /// One more step, `tensors()` magnitudes.
    void push(std::vector<float> largest);

    /// All of it, exactly; and back. An error of kind io where the text is none of these weights;
    /// `where` names it.
    std::string text() const;
    void restore(const std::string& text, const std::string& where);

  private:
    std::vector<std::string> weights_;
    std::map<std::string, size_t> numbers_;
    std::deque<std::vector<float>> steps_;  ///< the last `length`, oldest first
};

/// Delayed scaling: the scale of a step takes the largest magnitude of the steps before to the
/// format's largest number; what is larger now becomes that number. A tensor of which nothing is
/// known, or nothing but zeros, has current scaling. Maxima have no order, so that neither ranks
/// nor micro-batches change a bit.
class DelayedScaling final : public CurrentScaling {
  public:
    DelayedScaling(CachingAllocator& weights, bool keeps_weights, Fp8History history);

    void begin_step(Stream& stream) override;
    /// The largest magnitudes that this rank saw since begin_step, 0 of tensors that others have.
    /// Waits for the stream.
    std::vector<float> largest(Stream& stream) const { return largest_.read<float>(stream); }

    Fp8History& history() { return history_; }

  protected:
    Scale known_scale(const Parameter& weight, Fp8Role role) override;

  private:
    Fp8History history_;
    std::vector<float> host_scales_;  ///< by tensor; 0: current scaling
    Tensor scales_, largest_;         ///< by tensor, fp32
};

}  // namespace plinth::core
