// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"

namespace plinth::test {

/// Passes every call on to a sound communicator: what doubles of a group are made from. A double
/// overrides `exchange`, changes or watches what it names there, and passes the rest on. Groups
/// that are split off are sound ones, unless the double says otherwise.
class ForwardingGroup : public parallel::Communicator {
  public:
    explicit ForwardingGroup(Communicator& sound) : ForwardingGroup(sound, sound.rank()) {}
    /// The same over a group of its own.
    explicit ForwardingGroup(std::unique_ptr<Communicator> sound) : ForwardingGroup(*sound) {
        own_ = std::move(sound);
    }
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        return sound_.split(color, std::move(name));
    }
    void progress() override { sound_.progress(); }
    void abort(const std::string& reason, ErrorKind kind) override { sound_.abort(reason, kind); }

  protected:
    /// One that says it is another rank than it is.
    ForwardingGroup(Communicator& sound, int rank)
        : Communicator(rank, sound.size(), sound.host(), {.name = sound.name()}), sound_(sound) {}

    /// A call under way in the sound group.
    struct Forwarded final : parallel::Transfer {
        parallel::Pending pending;  ///< done from the start where nothing travels
        /// Asked once that call has ended, until it says that this one has, too.
        std::function<bool()> ends = [] { return true; };
        bool test() override { return pending.test() && ends(); }
    };

    std::unique_ptr<Forwarded> pass_on(const Call& call, const std::vector<Outgoing>& sends,
                                       const std::vector<Incoming>& receives) {
        auto transfer = std::make_unique<Forwarded>();
        if (call.channel == Call::Channel::message) {
            transfer->pending =
                sends.empty()
                    ? sound_.start_receive(call.label, receives[0].bytes, receives[0].peer)
                    : sound_.start_send(call.label, sends[0].bytes, sends[0].peer);
            return transfer;
        }
        std::vector<parallel::ConstBytes> out(static_cast<size_t>(size()));
        std::vector<parallel::Bytes> in(static_cast<size_t>(size()));
        for (const Outgoing& each : sends)
            out[static_cast<size_t>(each.peer)] = each.bytes;
        for (const Incoming& each : receives)
            in[static_cast<size_t>(each.peer)] = each.bytes;
        transfer->pending = sound_.start_all_to_all(call.label, out, in);
        return transfer;
    }
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        return pass_on(call, sends, receives);
    }
    void relax(std::chrono::duration<double>) override {
        sound_.progress();
        std::this_thread::yield();
    }
    std::string missing_ranks(int64_t) override { return ""; }

    bool owns_sound() const { return own_ != nullptr; }

    /// Where the others' bytes arrive, in the order of `receives`.
    static std::vector<parallel::Bytes> arrivals(const std::vector<Incoming>& receives) {
        std::vector<parallel::Bytes> bytes;
        for (const Incoming& each : receives)
            bytes.push_back(each.bytes);
        return bytes;
    }
    static int64_t bytes_of(const std::vector<Outgoing>& sends) {
        int64_t bytes = 0;
        for (const Outgoing& each : sends)
            bytes += static_cast<int64_t>(each.bytes.size());
        return bytes;
    }

  private:
    std::unique_ptr<Communicator> own_;
    Communicator& sound_;
};

}  // namespace plinth::test
