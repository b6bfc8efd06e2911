// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/forwarding_group.h"

namespace plinth::test {

/// Puts its hand into what was received: a mutant of whatever uses the group.
class AlteredGroup final : public ForwardingGroup {
  public:
    /// `received` holds what each other rank sent, in the order of arrival: right neighbours of
    /// lower rank first.
    using Alter =
        std::function<void(const std::string& label, const std::vector<parallel::Bytes>& received)>;

    AlteredGroup(Communicator& sound, Alter alter)
        : ForwardingGroup(sound), alter_(std::move(alter)) {}
    /// The same of a group of its own, and of every group split from it.
    AlteredGroup(std::unique_ptr<Communicator> sound, Alter alter)
        : ForwardingGroup(std::move(sound)), alter_(std::move(alter)) {}
    /// As one whose groups are altered too: a world.
    static std::unique_ptr<AlteredGroup> world(Communicator& sound, Alter alter) {
        auto altered = std::make_unique<AlteredGroup>(sound, std::move(alter));
        altered->alters_parts_ = true;
        return altered;
    }
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        auto part = ForwardingGroup::split(color, std::move(name));
        if (!alters_parts_ && !owns_sound()) return part;
        return std::make_unique<AlteredGroup>(std::move(part), alter_);
    }
    /// To other ranks so far.
    int64_t bytes_sent() const { return bytes_sent_; }

  protected:
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        bytes_sent_ += bytes_of(sends);
        auto transfer = pass_on(call, sends, receives);
        transfer->ends = [this, label = call.label, received = arrivals(receives)] {
            alter_(label, received);
            return true;
        };
        return transfer;
    }

  private:
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
