// SPDX-License-Identifier: Apache-2.0
#include "tests/support/ring_pass.h"

#include <gtest/gtest.h>

#include "tests/support/altered_group.h"

namespace plinth::test {
namespace {

using parallel::Communicator;

TEST(RingAttention, EqualsAttentionOfTheWholeSequenceForwardsAndBackwards) {
    for (const RingCase& c : ring_cases)
        for (const int ranks : {2, 3, 6}) {
            const Passed one = pass(c, 1, DType::f32), ring = pass(c, ranks, DType::f32);
            EXPECT_LT(distance(ring.y, one.y), 2e-6) << c.name << " " << ranks;
            EXPECT_LT(distance(ring.dqkv, one.dqkv), 4e-6) << c.name << " " << ranks;
        }
}

TEST(RingAttention, InBf16DiffersByRoundingOnly) {
    for (const RingCase& c : ring_cases)
        for (const int ranks : {2, 6}) {
            const Passed one = pass(c, 1, DType::bf16), ring = pass(c, ranks, DType::bf16);
            EXPECT_LT(distance(ring.y, one.y), 1e-2) << c.name << " " << ranks;
            EXPECT_LT(distance(ring.dqkv, one.dqkv), 1e-2) << c.name << " " << ranks;
        }
}

TEST(RingAttentionMutants, KeysThatAreLostOrGoAstrayShow) {
    const RingCase c = ring_cases[0];
    const auto without = [&](const char* label) {
        return pass(c, 3, DType::f32, {.between = [label](Communicator& sound) {
                        return std::make_unique<AlteredGroup>(sound, dropping(label));
                    }});
    };
    const Passed one = pass(c, 1, DType::f32);
    const Passed keys = without("attention keys");
    EXPECT_GT(distance(keys.y, one.y), 1e-2);
    const Passed sums = without("key gradients");
    EXPECT_LT(distance(sums.y, one.y), 2e-6);
    EXPECT_GT(distance(sums.dqkv, one.dqkv), 1e-2);
}

/// Takes itself for the rank after it: messages come from and go to the right neighbours, but what
/// they hold is taken for the tokens of another rank.
class TurnedGroup final : public ForwardingGroup {
  public:
    explicit TurnedGroup(Communicator& sound)
        : ForwardingGroup(sound, (sound.rank() + 1) % sound.size()) {}

  protected:
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        CHECK(call.channel == Call::Channel::message, "{}: no message", call.label);
        const auto real = [this](int peer) { return (peer + size() - 1) % size(); };
        for (Outgoing& each : sends)
            each.peer = real(each.peer);
        for (Incoming& each : receives)
            each.peer = real(each.peer);
        return pass_on(call, sends, receives);
    }
};

TEST(RingAttentionMutants, RanksThatChangePlacesShow) {
    const auto turned = [](Communicator& sound) { return std::make_unique<TurnedGroup>(sound); };
    for (const RingCase& c : ring_cases) {
        // Without masks, positions and dropout the order of keys decides nothing.
        if (std::string(c.name) == "bidirectional") continue;
        const Passed one = pass(c, 1, DType::f32),
                     ring = pass(c, 3, DType::f32, {.between = turned});
        EXPECT_GT(distance(ring.y, one.y), 1e-2) << c.name;
        EXPECT_GT(distance(ring.dqkv, one.dqkv), 1e-2) << c.name;
    }
}

}  // namespace
}  // namespace plinth::test
