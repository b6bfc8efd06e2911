// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/lane_reducer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/lanes_body.h"
#include "tests/support/expect_error.h"
#include "tests/support/forwarding_group.h"

namespace plinth::test {
namespace {

using parallel::run_as_threads;
using parallel::Transfer;

TEST(LanePlan, SlotsLanesAndRounds) {
    const LanePlan plan{.slots = 7, .lanes = 4, .ranks = 3};
    plan.validate();
    EXPECT_EQ(plan.slots_of(0), (std::vector<int64_t>{0, 5, 6}));
    EXPECT_EQ(plan.slots_of(1), (std::vector<int64_t>{1, 2}));
    EXPECT_EQ(plan.slots_of(2), (std::vector<int64_t>{3, 4}));
    EXPECT_EQ(plan.rounds(), 2);
    EXPECT_EQ(plan.lanes_in(1), 1);
    EXPECT_EQ(plan.lane_of(1, 1), std::nullopt);
    EXPECT_NEAR(plan.idle_share(), 1.0 - 7.0 / 9.0, 1e-12);
    for (int64_t slots = 1; slots < 20; ++slots)
        for (int64_t lanes = 1; lanes <= slots; ++lanes) {
            const LanePlan each{.slots = slots, .lanes = lanes};
            for (int64_t slot = 0; slot < slots; ++slot) {
                const int64_t lane = each.lane_of_slot(slot);
                EXPECT_TRUE(each.lane_begin(lane) <= slot && slot < each.lane_begin(lane + 1));
            }
        }
}

TEST(LanePlan, AlignedSlotsAreOfTheSameRoundOnEveryRank) {
    const LanePlan plan{.slots = 7, .lanes = 4, .ranks = 3};
    using Slots = std::vector<std::optional<int64_t>>;
    EXPECT_EQ(plan.aligned_slots_of(0), (Slots{0, std::nullopt, 5, 6}));
    EXPECT_EQ(plan.aligned_slots_of(1), (Slots{1, 2, std::nullopt, std::nullopt}));
    EXPECT_EQ(plan.aligned_slots_of(2), (Slots{3, 4, std::nullopt, std::nullopt}));
    for (int64_t slots = 1; slots < 14; ++slots)
        for (int64_t lanes = 1; lanes <= slots; ++lanes)
            for (int ranks = 1; ranks <= lanes; ++ranks) {
                const LanePlan each{slots, lanes, ranks};
                std::vector<int64_t> round_of;  // by entry
                for (int rank = 0; rank < ranks; ++rank) {
                    const Slots aligned = each.aligned_slots_of(rank);
                    round_of.resize(std::max(round_of.size(), aligned.size()), -1);
                    EXPECT_EQ(aligned.size(), round_of.size());
                    std::vector<int64_t> mine;
                    for (size_t i = 0; i < aligned.size(); ++i) {
                        if (!aligned[i]) continue;
                        mine.push_back(*aligned[i]);
                        const int64_t round = each.lane_of_slot(*aligned[i]) / ranks;
                        EXPECT_TRUE(round_of[i] == -1 || round_of[i] == round);
                        round_of[i] = round;
                    }
                    EXPECT_EQ(mine, each.slots_of(rank));
                }
            }
}

TEST(LanePlan, RefusesByKey) {
    expect_error(
        ErrorKind::config, [] { LanePlan{.slots = 8, .lanes = 2, .ranks = 3}.validate(); },
        "train.lanes=3");
    expect_error(
        ErrorKind::config, [] { LanePlan{.slots = 2, .lanes = 2, .ranks = 3}.validate(); },
        "train.global_batch", "at most 2 ranks");
    expect_error(
        ErrorKind::config, [] { LanePlan{.slots = 2, .lanes = 3}.validate(); }, "train.lanes");
}

TEST(BucketLayout, AlignedInBackwardOrderAndCutIntoOwners) {
    LanesModel model;
    const parallel::BucketLayout layout(model.parameters, 8192);
    EXPECT_EQ(layout.entries()[0].parameter->name(), "embedding");
    EXPECT_EQ(layout.entries()[0].use, 1);  // the tied head is ready first
    EXPECT_EQ(layout.entries()[1].parameter->name(), "block");
    EXPECT_EQ(layout.entries().back().use, 0);
    EXPECT_GE(layout.buckets(), 5u);
    for (const auto& entry : layout.entries())
        EXPECT_EQ(entry.range.begin % 1024, 0);
    for (int ranks = 1; ranks <= 5; ++ranks)
        for (size_t b = 0; b < layout.buckets(); ++b) {
            std::vector<parallel::FlatRange> owned;
            for (int rank = 0; rank < ranks; ++rank)
                owned.push_back(layout.owned(b, rank, ranks));
            std::ranges::sort(owned, {}, [](const auto& r) { return std::pair(r.begin, r.end); });
            int64_t at = layout.bucket(b).begin;
            for (const parallel::FlatRange& range : owned) {
                EXPECT_EQ(range.begin, at);
                EXPECT_EQ(range.begin % 1024, 0);
                at = range.end;
            }
            EXPECT_EQ(at, layout.bucket(b).end);
        }
}

TEST(BucketLayout, NoRankOwnsMuchMoreThanAnother) {
    std::vector<std::unique_ptr<core::Parameter>> owned;
    std::vector<core::Parameter*> parameters;
    for (int i = 0; i < 64; ++i) {
        owned.push_back(std::make_unique<core::Parameter>(
            core::Parameter::Spec{.name = fmt::format("p{}", i), .shape = {3, 1024}}));
        parameters.push_back(owned.back().get());
    }
    const parallel::BucketLayout layout(parameters, 3 * 4096);  // fewer blocks than ranks
    for (int rank = 0; rank < 8; ++rank) {
        int64_t elements = 0;
        for (size_t b = 0; b < layout.buckets(); ++b)
            elements += layout.owned(b, rank, 8).elements();
        EXPECT_EQ(elements, layout.elements() / 8) << rank;
    }
}

TEST(BucketLayout, UsesAreCutAlikeAndPiecesAreWhatRanksOwn) {
    LanesModel model;
    const parallel::BucketLayout layout(model.parameters, 8192);
    for (int ranks = 1; ranks <= 5; ++ranks)
        for (core::Parameter* parameter : model.parameters) {
            std::vector<int> owners(static_cast<size_t>(parameter->local_elements()), -1);
            for (int rank = 0; rank < ranks; ++rank) {
                const auto pieces = layout.owned(*parameter, 0, rank, ranks);
                for (const auto& piece : pieces) {
                    EXPECT_EQ(piece.range.begin % 1024, 0);
                    EXPECT_EQ(piece.range.elements(), piece.flat.elements());
                    for (int64_t i = piece.range.begin; i < piece.range.end; ++i)
                        EXPECT_EQ(std::exchange(owners[static_cast<size_t>(i)], rank), -1);
                }
                for (int use = 1; use < parameter->uses(); ++use) {
                    const auto others = layout.owned(*parameter, use, rank, ranks);
                    ASSERT_EQ(others.size(), pieces.size()) << parameter->name();
                    for (size_t i = 0; i < pieces.size(); ++i) {
                        EXPECT_EQ(others[i].range.begin, pieces[i].range.begin);
                        EXPECT_EQ(others[i].range.end, pieces[i].range.end);
                    }
                }
            }
            EXPECT_EQ(std::ranges::count(owners, -1), 0) << parameter->name();
        }
}

TEST(BucketLayout, AParameterLiesInOneUnit) {
    LanesModel model;
    for (const int64_t bytes : {4096, 8192, 12288, 1 << 20}) {
        const parallel::BucketLayout layout(model.parameters, bytes);
        int64_t at = 0;
        for (const auto& unit : layout.units()) {
            EXPECT_EQ(unit.range.begin, at);
            EXPECT_EQ(layout.bucket(unit.first_bucket).begin, unit.range.begin);
            EXPECT_EQ(layout.bucket(unit.end_bucket - 1).end, unit.range.end);
            at = unit.range.end;
        }
        EXPECT_EQ(at, layout.elements());
        for (const auto& entry : layout.entries()) {
            const auto& unit = layout.units()[entry.unit];
            EXPECT_TRUE(unit.range.begin <= entry.range.begin && entry.range.end <= unit.range.end);
            EXPECT_EQ(unit.holds_weights, entry.use == 0);
        }
        for (size_t b = 0; b < layout.buckets(); ++b)
            EXPECT_LE(layout.bucket(b).elements() * 4, bytes);
    }
}

class Lanes : public testing::TestWithParam<int> {};
TEST_P(Lanes, EqualTheSerialSumBitForBit) {
    run_as_threads(GetParam(), check_all_lanes);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Lanes, testing::Values(1, 2, 3, 4, 5));

/// Exchanges of buckets go wrong in one way.
enum class Fault { arrival_order, dropped_lane, swapped_pieces };

/// Goes wrong where a bucket is exchanged.
class FaultyGroup final : public ForwardingGroup {
  public:
    FaultyGroup(Communicator& sound, Fault fault) : ForwardingGroup(sound), fault_(fault) {}

  protected:
    std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                       std::vector<Incoming> receives) override {
        const bool is_bucket = call.label.find("bucket") != std::string::npos &&
                               call.label.find("totals") == std::string::npos;
        if (!is_bucket) return pass_on(call, sends, receives);
        if (fault_ == Fault::swapped_pieces && sends.size() >= 2 &&
            sends[0].bytes.size() == sends[1].bytes.size())
            std::swap(sends[0].bytes, sends[1].bytes);
        auto transfer = pass_on(call, sends, receives);
        transfer->ends = [fault = fault_, received = arrivals(receives)] {
            if (received.size() < 2 || received[0].size() != received[1].size()) return true;
            if (fault == Fault::arrival_order)
                std::swap_ranges(received[0].begin(), received[0].end(), received[1].begin());
            if (fault == Fault::dropped_lane)
                std::fill(received[0].begin(), received[0].end(), std::byte{});
            return true;
        };
        return transfer;
    }

  private:
    Fault fault_;
};

TEST(LanesMutants, EveryFaultBreaksTheEquality) {
    const LanesCase c{.plan = {.slots = 7, .lanes = 4}, .bucket_bytes = 12288};
    for (Fault fault : {Fault::arrival_order, Fault::dropped_lane, Fault::swapped_pieces})
        expect_error(
            ErrorKind::internal,
            [&] {
                run_as_threads(3, [&](Communicator& comm) {
                    FaultyGroup faulty(comm, fault);
                    check_lanes(faulty, c);
                });
            },
            "differs from the serial sum");
}

TEST(LanesMutants, TheGradientsDependOnTheOrder) {
    // Other lanes give other bits: the equality above is not one of numbers that add exactly.
    LanesModel model;
    const LanesCase two{.plan = {.slots = 8, .lanes = 2}}, four{.plan = {.slots = 8, .lanes = 4}};
    EXPECT_NE(serial_total(two, 0, 3, 0, 4257), serial_total(four, 0, 3, 0, 4257));
    // One lane and one lane a slot are the same left fold.
    const LanesCase one{.plan = {.slots = 8, .lanes = 1}}, all{.plan = {.slots = 8, .lanes = 8}};
    EXPECT_EQ(serial_total(one, 0, 3, 0, 4257), serial_total(all, 0, 3, 0, 4257));
}

TEST(LanesMutants, ProductsThatOverwriteOrAddAtTheWrongTimeBreakTheEquality) {
    const LanesCase c{.plan = {.slots = 4, .lanes = 2}};
    run_as_threads(1, [&](Communicator& comm) { check_lanes(comm, c); });
    for (const Adding adding : {Adding::always_overwrites, Adding::always_adds})
        expect_error(
            ErrorKind::internal,
            [&] { run_as_threads(1, [&](Communicator& comm) { check_lanes(comm, c, adding); }); },
            "differs from the serial sum");
    // Lanes of one slot are overwritten by each: there is nothing to add to.
    run_as_threads(1, [&](Communicator& comm) {
        check_lanes(comm, {.plan = {.slots = 4, .lanes = 4}}, Adding::always_overwrites);
    });
}

struct OneRank {
    parallel::SelfCommunicator comm;
    CachingAllocator allocator{host_memory()};
    Stream stream{1};
    LanesModel model;
    LaneReducer reducer{model.parameters, comm, allocator, stream};
    void give(size_t p, int use) {
        model.parameters[p]->add_gradient(
            use, [&](View dweight) { std::memset(dweight.data, 0, dweight.bytes()); });
    }
};

TEST(LaneReducer, UsesThatComeAndGoAreNamed) {
    OneRank twice;
    twice.reducer.begin_step({.slots = 1});
    twice.reducer.begin_slot(0);
    twice.give(3, 0);
    expect_error(
        ErrorKind::internal, [&] { twice.give(3, 0); }, "matrix", "two gradients");

    const auto after_first_slot = [](OneRank& rank) {
        rank.reducer.begin_step({.slots = 2});
        rank.reducer.begin_slot(0);
        rank.give(3, 0);
        rank.reducer.end_slot();
        rank.reducer.begin_slot(1);
    };
    OneRank fresh, missing;
    after_first_slot(fresh);
    expect_error(
        ErrorKind::internal, [&] { fresh.give(4, 0); }, "bias", "none in the first");
    after_first_slot(missing);
    expect_error(
        ErrorKind::internal, [&] { missing.reducer.end_slot(); }, "matrix", "none in this one");
}

TEST(LaneReducer, ProductsThatAddAreCountedAsUsesToo) {
    const auto product = [](View, bool) {};
    OneRank rank;
    core::Parameter& matrix = *rank.model.parameters[3];
    expect_error(
        ErrorKind::internal, [&] { matrix.accumulate_gradient(0, product); }, "matrix",
        "outside of a micro-batch");
    rank.reducer.begin_step({.slots = 2});
    rank.reducer.begin_slot(0);
    matrix.accumulate_gradient(0, product);
    expect_error(
        ErrorKind::internal, [&] { rank.give(3, 0); }, "matrix", "two gradients");
    rank.reducer.end_slot();
    rank.reducer.begin_slot(1);
    expect_error(
        ErrorKind::internal, [&] { rank.model.parameters[0]->accumulate_gradient(0, product); },
        "embedding", "none in the first");
}

/// Where a sink does not know products that add, they overwrite what it gives them.
TEST(GradientSink, TellsAProductToOverwriteUnlessItAdds) {
    struct Plain final : core::GradientSink {
        void add(core::Parameter&, int, FunctionRef<void(View dweight)> product) override {
            product({});
        }
    } sink;
    LanesModel model;
    model.parameters[3]->set_sink(&sink);
    int calls = 0;
    model.parameters[3]->accumulate_gradient(0, [&](View, bool accumulates) {
        ++calls;
        EXPECT_FALSE(accumulates);
    });
    EXPECT_EQ(calls, 1);
}

TEST(LaneReducer, NeedsScratchForWhatIsFinishedApartOnly) {
    const auto bytes_of = [](bool table_adds, bool vector_grows) {
        OneRank rank;
        const size_t lane = rank.allocator.use().peak;
        const auto give = [&](size_t p) {
            if (p == 3 && table_adds)
                rank.model.parameters[p]->accumulate_gradient(0, [](View, bool) {});
            else
                rank.give(p, 0);
        };
        rank.reducer.begin_step({.slots = 3, .lanes = 1});
        for (int64_t slot = 0; slot < 3; ++slot) {
            rank.reducer.begin_slot(slot);
            for (const size_t p :
                 vector_grows ? std::vector<size_t>{4, 5, 3} : std::vector<size_t>{5, 4, 3})
                give(p);
            rank.reducer.end_slot();
        }
        return rank.allocator.use().peak - lane;
    };
    const auto near = [](size_t bytes, int64_t elements) {
        const auto wanted = static_cast<size_t>(elements) * sizeof(float);
        return bytes >= wanted && bytes < wanted + 4096;
    };
    for (const bool grows : {false, true}) {
        EXPECT_TRUE(near(bytes_of(true, grows), 2048)) << bytes_of(true, grows);
        EXPECT_TRUE(near(bytes_of(false, grows), 33 * 129)) << bytes_of(false, grows);
    }
}

TEST(LaneReducer, HoldsOnlyTheUnitsUnderWayWhereGradientsAreShared) {
    run_as_threads(4, [](Communicator& comm) {
        std::vector<std::unique_ptr<core::Parameter>> parameters;
        std::vector<core::Parameter*> all;
        for (int i = 0; i < 40; ++i) {
            parameters.push_back(std::make_unique<core::Parameter>(
                core::Parameter::Spec{.name = fmt::format("p{}", i), .shape = {32, 128}}));
            parameters.back()->add_use();
            all.push_back(parameters.back().get());
        }
        CachingAllocator allocator(host_memory());
        Stream stream(1);
        LaneReducer reducer(
            all, comm, allocator, stream,
            {.bucket_bytes = 16384, .in_flight = 2, .share = parallel::GradientShare::owned_only});
        const LanePlan plan{.slots = 6, .lanes = 6, .ranks = 4};
        reducer.begin_step(plan);
        for (int64_t slot : plan.slots_of(comm.rank())) {
            reducer.begin_slot(slot);
            for (size_t p = all.size(); p-- > 0;)
                all[p]->add_gradient(
                    0, [](View dweight) { std::memset(dweight.data, 0, dweight.bytes()); });
            reducer.end_slot();
        }
        reducer.finish();
        // A quarter of the totals; two units on their way and one that is filled, each with what it
        // receives from three ranks.
        const size_t unit = 16384, whole = 40 * unit;
        CHECK(allocator.use().peak <= whole / 4 + 3 * 2 * unit, "peak of {} bytes, {} are whole",
              allocator.use().peak, whole);
    });
}

TEST(LaneReducer, CountsWhatTheBackwardPassHides) {
    run_as_threads(2, [](Communicator& comm) {
        CachingAllocator allocator(host_memory());
        Stream stream(1);
        LanesModel model;
        LaneReducer reducer(model.parameters, comm, allocator, stream, {.bucket_bytes = 4096});
        const LanePlan plan{.slots = 4, .lanes = 4, .ranks = 2};
        for (int64_t step = 0; step < 2; ++step) {
            reducer.begin_step(plan);
            for (int64_t slot : plan.slots_of(comm.rank()))
                run_slot(reducer, model, step, slot);
            reducer.finish();
        }
        const auto& seen = reducer.statistics();
        CHECK(seen.bytes == 2 * 4 * reducer.layout().elements(), "{} bytes", seen.bytes);
        // The first round at least is over before the second one's slots can be.
        CHECK(seen.hidden_share() >= 0.5 && seen.hidden_share() <= 1.0, "{}", seen.hidden_share());
        CHECK(seen.bytes_sent > 0 && seen.seconds_waiting >= 0.0, "nothing sent");
    });
}

}  // namespace
}  // namespace plinth::test
