// SPDX-License-Identifier: Apache-2.0
// The judgement over beats, with a clock that the test turns.
#include "parallel/comm/hang_watch.h"

#include <gtest/gtest.h>

#include "parallel/comm/hang_report.h"
#include "parallel/comm/pace.h"

namespace plinth::test {
namespace {

using parallel::Beat;
using parallel::HangLimits;
using parallel::HangWatch;
using parallel::Pace;
using parallel::Phase;
using parallel::RankPlace;
using parallel::Verdict;
using Kind = Verdict::Kind;

constexpr uint64_t world = 1, part = 2;
constexpr HangLimits limits{.silence = 7.5, .confirm = 5.0, .gather = 0.75};

/// Ranks that all beat once a second unless told otherwise.
class Table {
  public:
    explicit Table(int ranks) : watch(ranks, limits), beats(static_cast<size_t>(ranks)) {
        for (int rank = 0; rank < ranks; ++rank) {
            Beat& beat = of(rank);
            beat.rank = rank;
            beat.step = 12;
            beat.phase = Phase::backward;
            beat.limit = 7.5;
            beat.groups = 1;
            beat.group[0] = {.id = world, .begun = 0, .size = ranks};
        }
        beat_all();
    }

    Beat& of(int rank) { return beats[static_cast<size_t>(rank)]; }

    void computes(int rank, double quiet) {
        of(rank).waits = 0;
        of(rank).quiet = static_cast<float>(quiet);
    }
    /// The rank has begun call `sequence` of a group and waits in it.
    void waits(int rank, int64_t sequence, const char* label, double seconds,
               uint64_t group = world) {
        Beat& beat = of(rank);
        beat.waits = 1;
        beat.waited = static_cast<float>(seconds);
        beat.call = {.group = group,
                     .sequence = sequence,
                     .group_name = std::string_view(group == world ? "world" : "tensor"),
                     .label = std::string_view(label)};
        beat.past = {};
        beat.past.back() = {.sequence = sequence, .label = std::string_view(label)};
        begun(rank, sequence, group);
    }
    void begun(int rank, int64_t sequence, uint64_t group = world) {
        Beat& beat = of(rank);
        for (int32_t i = 0; i < beat.groups; ++i)
            if (beat.group[static_cast<size_t>(i)].id == group) {
                beat.group[static_cast<size_t>(i)].begun = sequence;
                return;
            }
        beat.group[static_cast<size_t>(beat.groups++)] = {.id = group, .begun = sequence};
    }
    /// The rank waits in its message of that number to or from a peer of the world.
    void waits_for_message(int rank, int peer, bool sends, int64_t message, double seconds) {
        waits(rank, 0, "activations", seconds);
        begun(rank, 3);
        of(rank).call.peer = peer;
        of(rank).call.sends = sends ? 1 : 0;
        of(rank).call.number = message;
        counts(rank, peer, sends ? message : 0, sends ? 0 : message);
    }
    void counts(int rank, int peer, int64_t sent, int64_t received) {
        Beat& beat = of(rank);
        beat.pair[static_cast<size_t>(beat.pairs++)] = {
            .group = world, .peer = peer, .sent = sent, .received = received};
    }
    void beat_all(int but = -1) {
        for (Beat& beat : beats)
            if (beat.rank != but) {
                beat.number = ++number;
                watch.hear(beat, now);
            }
    }
    std::optional<Verdict> judge() { return watch.judge(now); }

    HangWatch watch;
    std::vector<Beat> beats;
    uint64_t number = 0;
    double now = 0.0;
};

void expect(const std::optional<Verdict>& verdict, Kind kind, std::vector<int> culprits) {
    ASSERT_TRUE(verdict.has_value());
    EXPECT_EQ(verdict->kind, kind);
    EXPECT_EQ(verdict->culprits, culprits);
}

TEST(HangWatch, RanksThatComputeOrWaitForOneThatDoesAreFine) {
    Table table(3);
    for (int rank : {0, 2})
        table.waits(rank, 4, "bucket 3", 500.0);
    table.begun(1, 3);
    table.computes(1, 7.0);
    table.beat_all();
    EXPECT_FALSE(table.judge());
    // All wait in the same call: the bytes are under way, however long that takes.
    table.waits(1, 4, "bucket 3", 500.0);
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, SilentRanksAreNamedTogetherWithinTheLimit) {
    Table table(4);
    for (int second = 1; second <= 9 && !table.judge(); ++second) {
        table.now = second;
        if (second == 1) table.beat_all(3);  // rank 2 falls silent a second after rank 3
        for (int rank : {0, 1}) {
            table.of(rank).number = ++table.number;
            table.watch.hear(table.of(rank), table.now);
        }
        if (second == 8) {
            EXPECT_FALSE(table.judge());
        }
    }
    EXPECT_LE(table.now, 10.0);
    expect(table.judge(), Kind::silent, {2, 3});
}

TEST(HangWatch, ARankThatWasNeverHeardIsNotAccused) {
    HangWatch watch(3, limits);
    Beat beat;
    beat.number = 1;
    watch.hear(beat, 0.0);
    beat.number = 2;
    watch.hear(beat, 100.0);
    EXPECT_FALSE(watch.judge(100.0));
}

TEST(HangWatch, AnOvertakenBeatIsOld) {
    Table table(2);
    Beat late = table.of(1);
    table.now = 7.0;
    table.beat_all(1);
    table.watch.hear(late, 7.0);
    table.now = 9.0;
    table.beat_all(1);
    expect(table.judge(), Kind::silent, {1});
}

TEST(HangWatch, AFarewellIsNoSilence) {
    Table table(3);
    table.of(1).kind = Beat::Kind::left;
    table.beat_all();
    table.watch.process_ended(1, 1.0);
    table.now = 50.0;
    table.beat_all(1);
    EXPECT_FALSE(table.judge());
    // But one that others wait for must not have left.
    table.waits(0, 5, "loss", 6.0);
    table.beat_all(1);
    expect(table.judge(), Kind::gone, {1});
}

TEST(HangWatch, AnErrorThatNamesItselfIsNoHang) {
    Table table(3);
    table.of(2).kind = Beat::Kind::failed;
    table.beat_all();
    table.now = 50.0;
    table.beat_all(1);
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, AProcessThatEndsWithoutAWordHasDied) {
    Table table(3);
    table.watch.process_ended(1, 0.25);
    table.now = 0.5;
    EXPECT_FALSE(table.judge()) << "its farewell may be on the way";
    table.now = 0.75;
    expect(table.judge(), Kind::dead, {1});
}

TEST(HangWatch, ARankWithoutProgressIsStuckOnceOthersWait) {
    Table table(3);
    table.computes(1, 8.0);
    table.beat_all();
    EXPECT_FALSE(table.judge()) << "nobody waits for it";
    for (int rank : {0, 2})
        table.waits(rank, 4, "bucket 3", 5.5);
    table.beat_all();
    expect(table.judge(), Kind::stuck, {1});
    table.of(1).limit = 600;  // it reads, or this phase has stood still before
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, LabelsOfOneCallDiffer) {
    Table table(3);
    for (int rank : {0, 2})
        table.waits(rank, 4, "bucket 3", 5.5);
    table.waits(1, 4, "step scalars", 5.5);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {1});
    table.waits(1, 4, "step scalars", 2.0);
    table.beat_all();
    EXPECT_FALSE(table.judge()) << "not long enough";
}

TEST(HangWatch, TheWrongCallWasPassedAlready) {
    Table table(3);
    for (int rank : {0, 2})
        table.waits(rank, 4, "bucket 3", 5.5);
    table.waits(1, 5, "bucket 3", 5.5);
    table.of(1).past[2] = {.sequence = 4, .label = std::string_view("an extra call")};
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {1});
}

TEST(HangWatch, OfTwoNeitherIsRight) {
    Table table(2);
    table.waits(0, 4, "bucket 3", 5.5);
    table.waits(1, 4, "step scalars", 5.5);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {0, 1});
}

TEST(HangWatch, OfTwoTheOneThatAThirdWaitsForIsWrong) {
    Table table(3);
    for (int rank : {0, 1})
        table.begun(rank, 7, part);
    table.waits(0, 8, "columns", 5.5, part);
    table.waits(1, 4, "step scalars", 5.5);
    table.waits(2, 4, "bucket 3", 5.5);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {1});
}

TEST(HangWatch, ACircleOverTwoGroups) {
    Table table(4);
    for (int rank : {0, 1})
        table.begun(rank, 7, part);
    for (int rank : {0, 2, 3})
        table.waits(rank, 4, "bucket 3", rank == 0 ? 6.0 : 4.0);  // not all since the same time
    table.begun(1, 3);
    table.waits(1, 8, "columns", 6.0, part);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {1});
    // Rank 0 is in that call too: its bytes are under way, and all is well.
    table.waits(0, 8, "columns", 6.0, part);
    table.begun(0, 3);
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, MessagesThatNobodySendsMakeACircle) {
    Table table(3);
    table.waits_for_message(0, 1, false, 2, 6.0);  // 0 from 1, 1 from 2, 2 from 0
    table.waits_for_message(1, 2, false, 1, 6.0);
    table.waits_for_message(2, 0, false, 1, 6.0);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {0, 1, 2});
    table.counts(2, 1, 1, 0);  // rank 2 has sent its message: it is under way
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, AMessageAndACollective) {
    Table table(2);
    table.waits(0, 4, "bucket 3", 6.0);
    table.waits_for_message(1, 0, false, 1, 6.0);
    table.beat_all();
    expect(table.judge(), Kind::mismatch, {0, 1});
    // A receiver that has come is enough for a sender.
    table.waits_for_message(1, 0, true, 1, 6.0);
    table.counts(0, 1, 0, 1);
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, MessagesOfAGroupWithUnknownMembersProveNothing) {
    Table table(3);
    table.waits_for_message(0, 1, false, 1, 6.0);
    table.waits_for_message(1, 0, false, 1, 6.0);
    for (int rank : {0, 1})
        table.of(rank).group[0].size = 4;
    table.beat_all();
    EXPECT_FALSE(table.judge());
}

TEST(HangWatch, ALinkBetweenTwoOthersIsCut) {
    Table table(3);
    for (int rank : {0, 1, 2})
        table.waits(rank, 4, "bucket 3", 20.0);
    table.of(2).unheard = 1;
    table.of(2).unheard_seconds = 8.0;
    table.beat_all();
    expect(table.judge(), Kind::cut, {1, 2});
}

TEST(Pace, StandstillsStretchTheLimitOfTheirPhaseOnly) {
    Pace pace(7.5, 600.0);
    pace.look(Phase::forward, 1, false, 0.0);
    pace.look(Phase::forward, 1, false, 3.0);
    EXPECT_DOUBLE_EQ(pace.quiet(), 3.0);
    EXPECT_DOUBLE_EQ(pace.limit(), 7.5);
    pace.look(Phase::forward, 2, false, 5.0);
    EXPECT_DOUBLE_EQ(pace.quiet(), 0.0);
    EXPECT_DOUBLE_EQ(pace.limit(), 20.0);
    pace.look(Phase::backward, 3, false, 6.0);
    EXPECT_DOUBLE_EQ(pace.limit(), 7.5);
    pace.look(Phase::data, 4, false, 6.0);
    EXPECT_DOUBLE_EQ(pace.limit(), 600.0);
}

TEST(Pace, WaitingForOthersIsNoStandstill) {
    Pace pace(7.5, 600.0);
    pace.look(Phase::reduce, 1, false, 0.0);
    pace.look(Phase::reduce, 2, true, 1.0);
    pace.look(Phase::reduce, 2, true, 100.0);
    EXPECT_DOUBLE_EQ(pace.quiet(), 0.0);
    pace.look(Phase::reduce, 3, false, 200.0);
    pace.look(Phase::reduce, 3, false, 201.0);
    EXPECT_DOUBLE_EQ(pace.quiet(), 1.0);
    EXPECT_DOUBLE_EQ(pace.limit(), 7.5);
}

TEST(HangReport, NamesCulpritAndWaiters) {
    Table table(4);
    for (int rank : {0, 2, 3})
        table.waits(rank, 4, "bucket 3", 7.0);
    table.computes(1, 8.25);
    table.begun(1, 3);
    table.of(1).call = {.group = world,
                        .sequence = 3,
                        .group_name = std::string_view("world"),
                        .label = std::string_view("bucket 2")};
    table.beat_all();
    const std::vector<RankPlace> places{{.host = "a", .pid = 10},
                                        {.host = "a", .pid = 11},
                                        {.host = "b", .pid = 12},
                                        {.host = "b"}};
    const auto verdict = table.judge();
    ASSERT_TRUE(verdict);
    EXPECT_EQ(parallel::hang_report(*verdict, table.watch, places, 0, table.now, 162),
              "plinth: hang: rank 1 on a (process 11) has made no progress for 8.2 s and waits for "
              "no other rank: it loops or is blocked; step 12, backward, after it began collective "
              "#3 'bucket 2' of group 'world'\n"
              "plinth: hang: ranks 0, 2-3 wait in collective #4 'bucket 3' of group 'world'\n"
              "plinth: hang: rank 0 on a ends the job with exit code 162\n");
}

TEST(HangReport, SaysWhatSilenceCanMean) {
    Table table(4);
    table.now = 9.0;
    for (int rank : {0, 1}) {
        table.of(rank).number = ++table.number;
        table.watch.hear(table.of(rank), table.now);
    }
    std::vector<RankPlace> places{{.host = "a"}, {.host = "a"}, {.host = "b"}, {.host = "b"}};
    const auto text = [&] {
        return parallel::hang_report(table.judge().value(), table.watch, places, 0, table.now, 162);
    };
    EXPECT_NE(text().find("rank 3 on b (process 0) has sent no heartbeat for 9.0 s: stopped, dead, "
                          "or the link between a and b is cut; step 12, backward"),
              std::string::npos)
        << text();
    places[3] = {.host = "a", .pid = 0, .state = 'T'};
    EXPECT_NE(text().find("it is stopped (process state T)"), std::string::npos) << text();
}

TEST(HangReport, RangesOfRanks) {
    EXPECT_EQ(parallel::ranges_text({0, 2, 3, 4, 7, 9, 10}), "0, 2-4, 7, 9-10");
    EXPECT_EQ(parallel::ranges_text({}), "");
}

}  // namespace
}  // namespace plinth::test
