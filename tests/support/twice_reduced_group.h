// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/forwarding_group.h"

namespace plinth::test {

/// Reduces some of the integers under one label a second time: every rank gives the sum of all.
class TwiceReducedGroup final : public ForwardingGroup {
  public:
    struct Part {
        size_t begin, count;
    };
    TwiceReducedGroup(Communicator& sound, std::string label, Part part)
        : ForwardingGroup(sound), label_(std::move(label)), part_(part) {}

  protected:
    std::unique_ptr<parallel::Transfer> exact_reduction(const Call& call, void* values,
                                                        size_t count, DType dtype,
                                                        parallel::Reduce reduce) override {
        auto first = Communicator::exact_reduction(call, values, count, dtype, reduce);
        if (call.label != label_) return first;
        CHECK(dtype == DType::i64 && part_.begin + part_.count <= count, "{}: {} of {} integers",
              label_, part_.begin + part_.count, count);
        return std::make_unique<Twice>(std::move(first), [=, this] {
            return Communicator::exact_reduction(call, static_cast<int64_t*>(values) + part_.begin,
                                                 part_.count, dtype, reduce);
        });
    }

  private:
    struct Twice final : parallel::Transfer {
        using Again = std::function<std::unique_ptr<parallel::Transfer>()>;
        Twice(std::unique_ptr<parallel::Transfer> first, Again then)
            : current(std::move(first)), again(std::move(then)) {}
        bool test() override {
            if (!current->test()) return false;
            if (!again) return true;
            current = std::exchange(again, nullptr)();
            return current->test();
        }
        std::unique_ptr<parallel::Transfer> current;
        Again again;
    };

    std::string label_;
    Part part_;
};

}  // namespace plinth::test
