// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/autograd/fp8_source.h"
#include "kernels/fp8_history.h"

namespace plinth::core {

/// The largest magnitudes of the 8-bit tensors of a model in its last optimizer steps: of each
/// weight's input, of the weight, and of the gradient beside it. The same on all ranks. It lies
/// where the stream computes, and changes in the order of its work.
class Fp8History {
  public:
    static constexpr auto length = static_cast<size_t>(kernels::fp8_history_steps);  ///< steps

    /// Of the weights with these names; nothing is known.
    Fp8History(std::vector<std::string> weights, CachingAllocator& allocator, Stream& stream);

    size_t tensors() const { return weights_.size() * fp8_roles; }
    size_t index_of(const std::string& weight, Fp8Role role) const;
    /// See kernels::fp8_history_scales.
    void scales(View scales, View lasts, Stream& stream) const;
    /// One more step; see kernels::fp8_history_push.
    void push(ConstView words, ConstView outcome, Stream& stream);

    /// All of it, exactly; and back. An error of kind io where the text is none of these weights;
    /// `where` names it. Both wait for the stream.
    std::string text(Stream& stream) const;
    void restore(const std::string& text, const std::string& where, Stream& stream);

  private:
    std::vector<std::string> weights_;
    std::map<std::string, size_t> numbers_;
    Tensor rows_, count_;  ///< fp32 [length, tensors()], i64 [1]
};

/// Delayed scaling: the scale of a step takes the largest magnitude of the steps before to the
/// format's largest number; what is larger now becomes that number. A tensor of which nothing is
/// known, or nothing but zeros, has current scaling. Maxima have no order, so that neither ranks
/// nor micro-batches change a bit.
///
/// What is known lies on the device, and the host learns late of it. So each tensor's scale is
/// chosen there; only where the host is sure that all tensors are known, it saves that choice. No
/// bit depends on when it learns of it.
class DelayedScaling final : public CurrentScaling {
  public:
    struct Memory {
        CachingAllocator& weights;  ///< of 8-bit weights
        CachingAllocator& late;     ///< host memory that the stream's copies reach without waiting
    };
    DelayedScaling(const Memory& memory, bool keeps_weights, Fp8History history);

    void begin_step(Stream& stream) override;
    /// True where in this step every tensor's scale is known for sure to come from the history. A
    /// graph that was captured then must be launched in such steps only.
    bool all_are_known() const { return all_are_known_; }

    /// The largest magnitudes that this rank saw since begin_step, 0 of tensors that others have,
    /// as kernels::fp8_history_words gives them: to become the maxima of all ranks, in place.
    Tensor& step_words(Stream& stream);
    /// These count from the next step on, unless the outcome (may be left out) of the step says
    /// that it updates nothing. At most once a step.
    void push(ConstView outcome, Stream& stream);

    /// The magnitudes of `step_words`, of this rank. Waits for the stream.
    std::vector<float> largest(Stream& stream) const { return largest_.read<float>(stream); }
    const Fp8History& history() const { return history_; }
    void restore(const std::string& text, const std::string& where, Stream& stream);

  protected:
    Scale known_scale(const Parameter& weight, Fp8Role role) override;

  private:
    /// Fp8Known::lasts of a step, on its way to the host.
    struct Told {
        int64_t step = 0;
        Tensor lasts;
        std::unique_ptr<DeviceEvent> event;  ///< null: it is there
    };
    void learn();

    CachingAllocator& late_;
    Fp8History history_;
    Tensor scales_, largest_, words_, lasts_;  ///< by tensor, fp32 and i64; i64 [1]
    int64_t step_ = 0;                         ///< since the start of the program
    std::deque<Told> told_;
    int64_t known_until_ = -1;  ///< the last step in which all tensors are known for sure
    bool all_are_known_ = false;
};

}  // namespace plinth::core
