// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/forwarding_group.h"

namespace plinth::test {

/// What an ObservedGroup and all groups that are split off it tell of one rank.
struct GroupObserver {
    /// Bytes that a call sends to other ranks.
    std::function<void(const std::string& label, int64_t bytes)> sent = [](const auto&, int64_t) {};
    /// How often a call in which something travels is asked whether it has ended before it says so:
    /// a slow network.
    std::function<int(const std::string& label)> patience = [](const auto&) { return 0; };
};

/// Tells of every call; so do the groups that are split off.
class ObservedGroup final : public ForwardingGroup {
  public:
    ObservedGroup(Communicator& sound, std::shared_ptr<GroupObserver> observer)
        : ForwardingGroup(sound), observer_(std::move(observer)) {}
    ObservedGroup(std::unique_ptr<Communicator> sound, std::shared_ptr<GroupObserver> observer)
        : ForwardingGroup(std::move(sound)), observer_(std::move(observer)) {}
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        return std::make_unique<ObservedGroup>(ForwardingGroup::split(color, std::move(name)),
                                               observer_);
    }

  protected:
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        observer_->sent(call.label, bytes_of(sends));
        const bool travels = !sends.empty() || !receives.empty();
        auto transfer = pass_on(call, sends, receives);
        transfer->ends = [patience = travels ? observer_->patience(call.label) : 0]() mutable {
            return patience-- <= 0;
        };
        return transfer;
    }

  private:
    std::shared_ptr<GroupObserver> observer_;
};

}  // namespace plinth::test
