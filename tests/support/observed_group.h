// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/communicator.h"

namespace plinth::test {

/// What an ObservedGroup and all groups that are split off it tell of one rank.
struct GroupObserver {
    /// Bytes that a call sends to other ranks.
    std::function<void(const std::string& label, int64_t bytes)> sent = [](const auto&, int64_t) {};
    /// How often a call in which something travels is asked whether it has ended before it says so:
    /// a slow network.
    std::function<int(const std::string& label)> patience = [](const auto&) { return 0; };
};

/// Passes every call on to a sound communicator and tells of it; so do the groups that are split
/// off.
class ObservedGroup final : public parallel::Communicator {
  public:
    ObservedGroup(parallel::Communicator& sound, std::shared_ptr<GroupObserver> observer,
                  std::unique_ptr<parallel::Communicator> owned = {})
        : Communicator(sound.rank(), sound.size(), sound.host(), {.name = sound.name()}),
          owned_(std::move(owned)),
          sound_(sound),
          observer_(std::move(observer)) {}
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        auto part = sound_.split(color, std::move(name));
        parallel::Communicator& sound = *part;
        return std::make_unique<ObservedGroup>(sound, observer_, std::move(part));
    }
    void progress() override { sound_.progress(); }
    void abort(const std::string& reason, ErrorKind kind) override { sound_.abort(reason, kind); }

  protected:
    struct Observed final : parallel::Transfer {
        parallel::Pending pending;
        int patience = 0;
        bool test() override { return pending.test() && patience-- <= 0; }
    };

    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        int64_t bytes = 0;
        std::vector<parallel::ConstBytes> out(static_cast<size_t>(size()));
        std::vector<parallel::Bytes> in(static_cast<size_t>(size()));
        for (const Outgoing& each : sends) {
            out[static_cast<size_t>(each.peer)] = each.bytes;
            bytes += static_cast<int64_t>(each.bytes.size());
        }
        for (const Incoming& each : receives)
            in[static_cast<size_t>(each.peer)] = each.bytes;
        observer_->sent(call.label, bytes);
        auto transfer = std::make_unique<Observed>();
        if (!sends.empty() || !receives.empty())
            transfer->patience = observer_->patience(call.label);
        if (call.channel == Call::Channel::collective)
            transfer->pending = sound_.start_all_to_all(call.label, out, in);
        else if (sends.empty())
            transfer->pending =
                sound_.start_receive(call.label, receives[0].bytes, receives[0].peer);
        else
            transfer->pending = sound_.start_send(call.label, sends[0].bytes, sends[0].peer);
        return transfer;
    }
    void relax(std::chrono::duration<double>) override {
        sound_.progress();
        std::this_thread::yield();
    }
    std::string missing_ranks(int64_t) override { return ""; }

  private:
    std::unique_ptr<parallel::Communicator> owned_;
    parallel::Communicator& sound_;
    std::shared_ptr<GroupObserver> observer_;
};

}  // namespace plinth::test
