// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/runtime/copy_engine.h"

namespace plinth::test {

/// Copies within host memory that are done as late as they may be, beside a stream of the CPU: when
/// someone waits. Until then nobody knows what is at their target.
class LateCopies final : public CopyEngine {
  public:
    struct Faults {
        int forgotten = -1;  ///< the copy of that number
        bool does_not_hold = false;
    };
    explicit LateCopies(const Faults& faults) : faults_(faults) {}

    void wait_for_stream() override {}  // whose work is done when it is given
    void copy(void* to, const void* from, size_t bytes) override {
        std::memset(to, 0x7E, bytes);
        if (copies_++ == faults_.forgotten) return;
        queue_.push_back([=] { std::memcpy(to, from, bytes); });
    }
    void hold_stream() override {
        if (!faults_.does_not_hold) synchronize();
    }
    std::unique_ptr<DeviceEvent> record() override { return nullptr; }
    void synchronize() override {
        for (const auto& copy : queue_)
            copy();
        queue_.clear();
    }
    int copies() const { return copies_; }

  private:
    Faults faults_;
    int copies_ = 0;
    std::vector<std::function<void()>> queue_;
};

}  // namespace plinth::test
