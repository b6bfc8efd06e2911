// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "parallel/comm/beat.h"

namespace plinth::parallel {

/// Seconds of the watcher's clock.
struct HangLimits {
    double silence = 7.5;  ///< without a beat: a rank is stopped, dead, or out of reach
    double confirm = 5.0;  ///< a wait that no call of others explains, before anybody is accused
    double gather = 0.75;  ///< after the first, so that one report names all that fall silent
};

/// What is wrong, and with whom.
struct Verdict {
    enum class Kind {
        dead,      ///< their processes have ended without a word
        silent,    ///< no beat any more
        stuck,     ///< they beat, but make no progress and wait for nobody, while others wait
        gone,      ///< they have ended in order, while others wait for them
        mismatch,  ///< they wait in other calls than the rest, and each waits for another
        cut,       ///< two that do not hear each other, though both are heard
    };
    Kind kind = Kind::silent;
    std::vector<int> culprits;  ///< ascending
};

/// Judges what the beats of the ranks tell, and only that: no clock and no transport of its own. A
/// rank that has never been heard is never accused.
///
/// A rank in a collective waits for those members of the group that have not begun it, a rank in a
/// message for its other end. Whoever waits for
/// nobody is busy, or waits for bytes under way; it is at fault only when it makes no progress for
/// longer than it says itself that it may (Pace). Ranks that wait in a circle will wait for ever.
class HangWatch {
  public:
    HangWatch(int ranks, HangLimits limits);

    void hear(const Beat& beat, double now);
    /// The process of a rank has ended. It counts a little later: its farewell may be on the way.
    void process_ended(int rank, double now);

    std::optional<Verdict> judge(double now);

    /// Null while the rank has not been heard.
    const Beat* last(int rank) const;
    /// Seconds since then.
    double age(int rank, double now) const;
    /// True for a rank that was heard and is so no more, or that has ended.
    bool is_lost(int rank, double now) const;
    bool is_waiting(int rank, double now) const;

  private:
    struct Seen {
        std::optional<Beat> beat;
        double heard = 0.0;
        std::optional<double> ended;
    };
    using Ranks = std::vector<int>;

    const Seen& of(int rank) const { return seen_[static_cast<size_t>(rank)]; }
    bool is_present(int rank, double now) const;
    bool waits_for_seconds(int rank, double seconds, double now) const;
    /// True if `rank` waits in a call of which `other` is a member that has not begun it.
    bool waits_for(int rank, int other) const;
    bool waits_for_message(int rank, int other) const;
    void find_members();
    int64_t waiters_of(int rank, const Ranks& waiting) const;
    template <typename Condition>
    Ranks ranks_that(Condition&& condition) const;

    std::optional<Verdict> judge_lost(double now) const;
    std::optional<Verdict> judge_stuck(const Ranks& waiting, double now) const;
    std::optional<Verdict> judge_labels(const Ranks& waiting) const;
    std::optional<Verdict> judge_circle(const Ranks& waiting) const;
    std::optional<Verdict> judge_cut(double now) const;

    HangLimits limits_;
    std::vector<Seen> seen_;
    /// Ranks of each group in order, as far as beats have told.
    std::map<uint64_t, Ranks> members_;
};

}  // namespace plinth::parallel
