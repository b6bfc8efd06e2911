// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/runtime/philox.h"

namespace plinth {

/// The number of a training step: known, or in memory where kernels find it when they run. Captured
/// work keeps what is known when it is captured; memory it reads each time that it is launched.
class StepNumber {
  public:
    constexpr StepNumber(int64_t known = 0) : known_(known) {}
    /// `memory` is of the device that reads it, one number.
    static StepNumber read_from(const int64_t* memory) {
        StepNumber number;
        number.memory_ = memory;
        return number;
    }
    bool is_known() const { return memory_ == nullptr; }
    /// Where the number may be read.
    PLINTH_HOST_DEVICE int64_t get() const { return memory_ ? *memory_ : known_; }

  private:
    int64_t known_;
    const int64_t* memory_ = nullptr;
};

/// A RandomKey of (seed, purpose, step) as an argument of kernels, which make the key themselves:
/// the step may be in memory.
class StepKey {
  public:
    StepKey() = default;
    StepKey(uint64_t seed, std::string_view purpose, StepNumber step = {})
        : stem_(RandomKey::stem_of(seed, purpose)), step_(step) {}
    PLINTH_HOST_DEVICE RandomKey get() const {
        return RandomKey(stem_, static_cast<uint64_t>(step_.get()));
    }

  private:
    uint64_t stem_ = 0;
    StepNumber step_;
};

}  // namespace plinth
