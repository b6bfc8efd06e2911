// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/hang_report.h"

#include <map>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// So many culprits have a line of their own; a host that fails may have more.
constexpr size_t most_lines = 16;

std::string call_text(const Beat::Call& call) {
    if (call.sequence == 0)
        return fmt::format("message #{} '{}' {} rank {} of group '{}'", call.number,
                           call.label.view(), call.sends != 0 ? "to" : "from", call.peer,
                           call.group_name.view());
    return fmt::format("collective #{} '{}' of group '{}'", call.sequence, call.label.view(),
                       call.group_name.view());
}

std::string where_text(const Beat* beat) {
    if (!beat) return "it was never heard";
    std::string text = fmt::format("step {}, {}", beat->step, name_of(beat->phase));
    if (beat->waits != 0)
        text += ", waiting in " + call_text(beat->call);
    else if (!beat->call.label.view().empty())
        text += ", after it began " + call_text(beat->call);
    return text;
}

std::string state_text(const RankPlace& place, bool is_near, const std::string& reporter_host) {
    switch (place.state) {
        case 'T':
            return "it is stopped (process state T)";
        case 't':
            return "a debugger holds it (process state t)";
        case 0:
            break;
        default:
            return fmt::format("it lives (process state {}) but does not run", place.state);
    }
    if (is_near) return "stopped or dead";
    return fmt::format("stopped, dead, or the link between {} and {} is cut", reporter_host,
                       place.host);
}

}  // namespace

std::string ranges_text(const std::vector<int>& ranks) {
    std::string text;
    for (size_t i = 0; i < ranks.size();) {
        size_t end = i;
        while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1)
            ++end;
        if (!text.empty()) text += ", ";
        text += end == i ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[end]);
        i = end + 1;
    }
    return text;
}

namespace {

std::string problem_text(const Verdict& verdict, int rank, const HangWatch& watch,
                         const std::vector<RankPlace>& places, int reporter, double now) {
    const RankPlace& place = places[static_cast<size_t>(rank)];
    const std::string& here = places[static_cast<size_t>(reporter)].host;
    const Beat* beat = watch.last(rank);
    switch (verdict.kind) {
        case Verdict::Kind::dead:
            return "has died";
        case Verdict::Kind::silent: {
            bool is_near = place.host == here;  // or another rank beside it is heard
            for (int other = 0; other < static_cast<int>(places.size()); ++other)
                is_near = is_near || (places[static_cast<size_t>(other)].host == place.host &&
                                      watch.last(other) && !watch.is_lost(other, now));
            return fmt::format("has sent no heartbeat for {:.1f} s: {}", watch.age(rank, now),
                               state_text(place, is_near, here));
        }
        case Verdict::Kind::stuck:
            return fmt::format(
                "has made no progress for {:.1f} s and waits for no other rank: it "
                "loops or is blocked",
                beat ? beat->quiet : 0.0f);
        case Verdict::Kind::gone:
            return "has ended while others wait for it";
        case Verdict::Kind::mismatch:
            return fmt::format("{}, for {:.1f} s",
                               beat && beat->call.sequence == 0
                                   ? "waits for a message that its other end has not begun"
                                   : "is in a call that the others are not in",
                               beat ? beat->waited : 0.0f);
        case Verdict::Kind::cut:
            return fmt::format(
                "and rank {} do not hear each other: the link between {} and {} is "
                "cut",
                verdict.culprits[rank == verdict.culprits[0] ? 1 : 0],
                places[static_cast<size_t>(verdict.culprits[0])].host,
                places[static_cast<size_t>(verdict.culprits[1])].host);
    }
    return "";
}

}  // namespace

std::string hang_report(const Verdict& verdict, const HangWatch& watch,
                        const std::vector<RankPlace>& places, int reporter, double now,
                        int exit_code) {
    std::string text;
    const auto line = [&](const std::string& words) { text += "plinth: hang: " + words + "\n"; };
    for (size_t i = 0; i < verdict.culprits.size(); ++i) {
        if (i == most_lines) {
            line(fmt::format(
                "and ranks {} likewise",
                ranges_text({verdict.culprits.begin() + most_lines, verdict.culprits.end()})));
            break;
        }
        const int rank = verdict.culprits[i];
        const RankPlace& place = places[static_cast<size_t>(rank)];
        line(fmt::format("rank {} on {} (process {}) {}; {}", rank, place.host, place.pid,
                         problem_text(verdict, rank, watch, places, reporter, now),
                         where_text(watch.last(rank))));
    }
    std::map<std::string, std::vector<int>> waiting;
    for (int rank = 0; rank < static_cast<int>(places.size()); ++rank)
        if (watch.is_waiting(rank, now) && std::ranges::count(verdict.culprits, rank) == 0)
            waiting[call_text(watch.last(rank)->call)].push_back(rank);
    for (const auto& [call, ranks] : waiting)
        line(fmt::format("{} {} wait{} in {}", ranks.size() == 1 ? "rank" : "ranks",
                         ranges_text(ranks), ranks.size() == 1 ? "s" : "", call));
    line(fmt::format("rank {} on {} ends the job with exit code {}", reporter,
                     places[static_cast<size_t>(reporter)].host, exit_code));
    return text;
}

}  // namespace plinth::parallel
