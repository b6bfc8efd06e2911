// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace plinth::test {

/// Passes every call on to a sound communicator and then puts its hand into what was received: a
/// mutant of whatever uses the group.
class AlteredGroup final : public parallel::Communicator {
  public:
    /// `received` holds what each other rank sent, in the order of arrival: right neighbours of
    /// lower rank first.
    using Alter =
        std::function<void(const std::string& label, const std::vector<parallel::Bytes>& received)>;

    AlteredGroup(Communicator& sound, Alter alter)
        : Communicator(sound.rank(), sound.size(), sound.host(), {}),
          sound_(sound),
          alter_(std::move(alter)) {}
    /// The same of a group of its own, and of every group split from it.
    AlteredGroup(std::unique_ptr<Communicator> sound, Alter alter)
        : AlteredGroup(*sound, std::move(alter)) {
        own_ = std::move(sound);
    }
    /// As one whose groups are altered too: a world.
    static std::unique_ptr<AlteredGroup> world(Communicator& sound, Alter alter) {
        auto altered = std::make_unique<AlteredGroup>(sound, std::move(alter));
        altered->alters_parts_ = true;
        return altered;
    }
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        auto part = sound_.split(color, std::move(name));
        if (!alters_parts_ && !own_) return part;
        return std::make_unique<AlteredGroup>(std::move(part), alter_);
    }
    void progress() override { sound_.progress(); }
    void abort(const std::string& reason, ErrorKind kind) override { sound_.abort(reason, kind); }
    /// To other ranks so far.
    int64_t bytes_sent() const { return bytes_sent_; }

  protected:
    struct Altered final : parallel::Transfer {
        parallel::Pending pending;
        std::vector<parallel::Bytes> received;
        std::string label;
        const Alter* alter = nullptr;
        bool test() override {
            if (!pending.test()) return false;
            (*alter)(label, received);
            return true;
        }
    };

    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        auto transfer = std::make_unique<Altered>();
        transfer->label = call.label;
        transfer->alter = &alter_;
        std::vector<parallel::ConstBytes> out(static_cast<size_t>(size()));
        std::vector<parallel::Bytes> in(static_cast<size_t>(size()));
        for (const Outgoing& each : sends) {
            out[static_cast<size_t>(each.peer)] = each.bytes;
            bytes_sent_ += static_cast<int64_t>(each.bytes.size());
        }
        for (const Incoming& each : receives) {
            in[static_cast<size_t>(each.peer)] = each.bytes;
            transfer->received.push_back(each.bytes);
        }
        if (call.channel == Call::Channel::collective)
            transfer->pending = sound_.start_all_to_all(call.label, out, in);
        else if (sends.empty())
            transfer->pending =
                sound_.start_receive(call.label, receives[0].bytes, receives[0].peer);
        else
            transfer->pending = sound_.start_send(call.label, sends[0].bytes, sends[0].peer);
        return transfer;
    }
    void relax(std::chrono::duration<double>) override { sound_.progress(); }
    std::string missing_ranks(int64_t) override { return ""; }

  private:
    std::unique_ptr<Communicator> own_;
    Communicator& sound_;
    bool alters_parts_ = false;
    Alter alter_;
    int64_t bytes_sent_ = 0;
};

/// Zeros in place of what the others sent under labels that hold `text`.
inline AlteredGroup::Alter dropping(std::string text) {
    return [text](const std::string& label, const std::vector<parallel::Bytes>& received) {
        if (label.find(text) == std::string::npos) return;
        for (const parallel::Bytes bytes : received)
            std::fill(bytes.begin(), bytes.end(), std::byte{});
    };
}

/// The pieces of two other ranks exchanged, under labels that hold `text`; three ranks or more.
inline AlteredGroup::Alter swapping(std::string text) {
    return [text](const std::string& label, const std::vector<parallel::Bytes>& received) {
        if (label.find(text) == std::string::npos || received.size() < 2) return;
        std::swap_ranges(received[0].begin(), received[0].end(), received[1].begin());
    };
}

}  // namespace plinth::test
