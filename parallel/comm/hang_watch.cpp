// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/hang_watch.h"

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// What a member tells of a group; null if it is no member.
const Beat::Group* find_group(const Beat& beat, uint64_t group) {
    for (int32_t i = 0; i < beat.groups; ++i)
        if (beat.group[static_cast<size_t>(i)].id == group)
            return &beat.group[static_cast<size_t>(i)];
    return nullptr;
}

/// How many messages a rank has begun with a peer of a group; none if it does not tell.
std::optional<int64_t> messages_of(const Beat& beat, uint64_t group, int64_t peer, bool sent) {
    const size_t told = std::min(static_cast<size_t>(beat.pairs), beat.pair.size());
    for (size_t i = 0; i < told; ++i)
        if (beat.pair[i].group == group && beat.pair[i].peer == peer)
            return sent ? beat.pair[i].sent : beat.pair[i].received;
    if (told < static_cast<size_t>(beat.pairs)) return std::nullopt;
    return 0;
}

/// The minority: all but the largest class. Where no class is the largest it is everybody, or those
/// of them that most others wait for.
template <typename Key, typename Waiters>
std::vector<int> minority(const std::map<Key, std::vector<int>>& classes, Waiters&& waiters_of) {
    size_t most = 0, times = 0;
    for (const auto& [key, members] : classes) {
        times = members.size() > most ? 1 : times + (members.size() == most ? 1 : 0);
        most = std::max(most, members.size());
    }
    std::vector<int> few;
    for (const auto& [key, members] : classes)
        if (times > 1 || members.size() < most)
            few.insert(few.end(), members.begin(), members.end());
    std::ranges::sort(few);
    if (times <= 1) return few;
    const auto blamed = std::ranges::max(few, {}, waiters_of);
    std::erase_if(few, [&](int rank) { return waiters_of(rank) < waiters_of(blamed); });
    return few;
}

}  // namespace

HangWatch::HangWatch(int ranks, HangLimits limits)
    : limits_(limits), seen_(static_cast<size_t>(ranks)) {}

void HangWatch::hear(const Beat& beat, double now) {
    Seen& seen = seen_[static_cast<size_t>(beat.rank)];
    if (seen.beat && beat.number <= seen.beat->number) return;  // overtaken on the way
    if (seen.beat && seen.beat->kind != Beat::Kind::alive) return;
    seen.beat = beat;
    seen.heard = now;
}

void HangWatch::process_ended(int rank, double now) {
    Seen& seen = seen_[static_cast<size_t>(rank)];
    if (!seen.ended) seen.ended = now;
}

const Beat* HangWatch::last(int rank) const {
    return of(rank).beat ? &*of(rank).beat : nullptr;
}

double HangWatch::age(int rank, double now) const {
    return now - of(rank).heard;
}

bool HangWatch::is_lost(int rank, double now) const {
    const Seen& seen = of(rank);
    return seen.ended || (seen.beat && (seen.beat->kind != Beat::Kind::alive ||
                                        age(rank, now) > limits_.silence / 2));
}

bool HangWatch::is_present(int rank, double now) const {
    return of(rank).beat && !is_lost(rank, now);
}

bool HangWatch::is_waiting(int rank, double now) const {
    return is_present(rank, now) && of(rank).beat->waits != 0;
}

bool HangWatch::waits_for_seconds(int rank, double seconds, double now) const {
    return is_waiting(rank, now) && static_cast<double>(of(rank).beat->waited) >= seconds;
}

bool HangWatch::waits_for(int rank, int other) const {
    const Beat::Call& call = of(rank).beat->call;
    if (rank == other || !of(other).beat) return false;
    if (call.sequence == 0) return waits_for_message(rank, other);
    const Beat::Group* group = find_group(*of(other).beat, call.group);
    return group && group->begun < call.sequence;
}

bool HangWatch::waits_for_message(int rank, int other) const {
    const Beat::Call& call = of(rank).beat->call;
    const Beat::Group* group = find_group(*of(rank).beat, call.group);
    const auto found = members_.find(call.group);
    // Numbers in the group say who is meant only if all its members are known.
    if (!group || found == members_.end() ||
        static_cast<int64_t>(found->second.size()) != group->size || call.peer < 0 ||
        call.peer >= group->size)
        return false;
    const Ranks& members = found->second;
    if (members[static_cast<size_t>(call.peer)] != other) return false;
    const auto own = std::ranges::find(members, rank) - members.begin();
    const auto begun = messages_of(*of(other).beat, call.group, own, call.sends == 0);
    return begun && *begun < call.number;
}

void HangWatch::find_members() {
    members_.clear();
    for (int rank = 0; rank < static_cast<int>(seen_.size()); ++rank)
        for (int32_t i = 0; of(rank).beat && i < of(rank).beat->groups; ++i)
            members_[of(rank).beat->group[static_cast<size_t>(i)].id].push_back(rank);
}

int64_t HangWatch::waiters_of(int rank, const Ranks& waiting) const {
    return std::ranges::count_if(waiting, [&](int other) { return waits_for(other, rank); });
}

template <typename Condition>
HangWatch::Ranks HangWatch::ranks_that(Condition&& condition) const {
    Ranks ranks;
    for (int rank = 0; rank < static_cast<int>(seen_.size()); ++rank)
        if (condition(rank)) ranks.push_back(rank);
    return ranks;
}

std::optional<Verdict> HangWatch::judge(double now) {
    // Somebody ends by an error that it names itself; what follows from it is no news.
    for (const Seen& seen : seen_)
        if (seen.beat && seen.beat->kind >= Beat::Kind::failed) return std::nullopt;
    if (auto verdict = judge_lost(now)) return verdict;
    const auto waiting_for = [&](double seconds) {
        return ranks_that([&](int rank) { return waits_for_seconds(rank, seconds, now); });
    };
    if (waiting_for(limits_.confirm).empty()) return std::nullopt;
    // The others came later; that they stand still at the same time is certain all the same.
    const Ranks waiting = waiting_for(limits_.confirm / 2);
    find_members();
    if (auto verdict = judge_stuck(waiting, now)) return verdict;
    if (auto verdict = judge_labels(waiting)) return verdict;
    if (auto verdict = judge_circle(waiting)) return verdict;
    return judge_cut(now);
}

std::optional<Verdict> HangWatch::judge_lost(double now) const {
    const auto has_left = [&](int rank) {
        return of(rank).beat && of(rank).beat->kind == Beat::Kind::left;
    };
    const Ranks dead = ranks_that([&](int rank) {
        return of(rank).ended && now - *of(rank).ended >= limits_.gather / 2 && !has_left(rank);
    });
    if (!dead.empty()) return Verdict{Verdict::Kind::dead, dead};
    const auto is_silent = [&](int rank, double limit) {
        return of(rank).beat && !has_left(rank) && !of(rank).ended && age(rank, now) > limit;
    };
    const Ranks first =
        ranks_that([&](int rank) { return is_silent(rank, limits_.silence + limits_.gather); });
    if (first.empty()) return std::nullopt;
    return Verdict{Verdict::Kind::silent,
                   ranks_that([&](int rank) { return is_silent(rank, limits_.silence / 2); })};
}

std::optional<Verdict> HangWatch::judge_stuck(const Ranks& waiting, double now) const {
    Ranks stuck = ranks_that([&](int rank) {
        return is_present(rank, now) && of(rank).beat->waits == 0 &&
               of(rank).beat->quiet > of(rank).beat->limit;
    });
    if (!stuck.empty()) return Verdict{Verdict::Kind::stuck, std::move(stuck)};
    Ranks gone = ranks_that([&](int rank) {
        return of(rank).beat && of(rank).beat->kind == Beat::Kind::left &&
               waiters_of(rank, waiting) > 0;
    });
    if (!gone.empty()) return Verdict{Verdict::Kind::gone, std::move(gone)};
    return std::nullopt;
}

std::optional<Verdict> HangWatch::judge_labels(const Ranks& waiting) const {
    std::map<std::pair<uint64_t, int64_t>, std::map<std::string, Ranks>> calls;
    for (const int rank : waiting)
        for (const Beat::Past& past : of(rank).beat->past)
            if (past.sequence > 0)
                calls[{of(rank).beat->call.group, past.sequence}][std::string(past.label.view())]
                    .push_back(rank);
    for (const auto& [call, labels] : calls)
        if (labels.size() > 1)
            return Verdict{Verdict::Kind::mismatch,
                           minority(labels, [&](int rank) { return waiters_of(rank, waiting); })};
    return std::nullopt;
}

std::optional<Verdict> HangWatch::judge_circle(const Ranks& waiting) const {
    // Whoever waits for nobody that waits is free to go on, and sets free who waits for it alone.
    Ranks bound = waiting;
    for (size_t before = 0; before != bound.size();) {
        before = bound.size();
        const Ranks others = bound;
        std::erase_if(bound, [&](int rank) {
            return std::ranges::none_of(others, [&](int other) { return waits_for(rank, other); });
        });
    }
    if (bound.empty()) return std::nullopt;
    std::map<std::tuple<uint64_t, int64_t, int>, Ranks> calls;
    for (const int rank : bound) {
        const Beat::Call& call = of(rank).beat->call;
        calls[{call.group, call.sequence, call.sequence == 0 ? rank : -1}].push_back(rank);
    }
    return Verdict{Verdict::Kind::mismatch,
                   minority(calls, [&](int rank) { return waiters_of(rank, waiting); })};
}

std::optional<Verdict> HangWatch::judge_cut(double now) const {
    for (int rank = 0; rank < static_cast<int>(seen_.size()); ++rank) {
        if (!is_present(rank, now)) continue;
        const Beat& beat = *of(rank).beat;
        if (beat.unheard < 0 || beat.unheard_seconds <= static_cast<float>(limits_.silence) ||
            !is_present(beat.unheard, now))
            continue;
        return Verdict{Verdict::Kind::cut,
                       {std::min(rank, beat.unheard), std::max(rank, beat.unheard)}};
    }
    return std::nullopt;
}

}  // namespace plinth::parallel
