// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_settings.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "launch/memory_choices.h"
#include "launch/plan.h"
#include "launch/plan_shares.h"
#include "launch/session.h"

namespace plinth::launch {

namespace {

/// Thrown through plans.
struct SearchEnded {};

/// Throws it as soon as `goes_on`, which must outlive what this gives, says no.
PlanProgress ended_by(const GoesOn& goes_on) {
    if (!goes_on) return {};
    return [&goes_on] {
        if (!goes_on()) throw SearchEnded{};
    };
}

/// Bytes where a rank computes, and beside a GPU.
struct Need {
    int64_t peak = 0, on_host = 0;
};

Need need_by_plan(const RunConfig& config, int64_t ranks, const PlanProgress& progress) {
    Need most;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        const MemoryPlan plan = memory_plan(config, ranks, stage, progress);
        most.peak = std::max(most.peak, is_on_gpu(config) ? plan.computing() : plan.total());
        if (is_on_gpu(config)) most.on_host = std::max(most.on_host, plan.on_host());
    }
    return most;
}

class Search {
  public:
    Search(const RunConfig& config, int64_t ranks, int64_t limit, const GoesOn& goes_on)
        : run_{config, ranks}, limit_(limit), progress_(ended_by(goes_on)) {}

    std::vector<MemorySetting> all() {
        try {
            search();
        } catch (const SearchEnded&) {
        }
        return settings_;
    }

  private:
    void search() {
        peak_ = peak_of(run_);
        for (const MemoryKnob knob : knobs_)
            if (auto one = best(knob(run_))) settings_.push_back(*one);
        if (std::ranges::none_of(settings_, &MemorySetting::fits))
            if (auto together = combined(settings_.size())) settings_.push_back(*together);
        if (auto more = best(more_data_ranks(run_))) settings_.push_back(*more);
        for (const MemoryKnob knob : model_rank_knobs())
            if (auto more = best(knob(run_)); more && more->fits) settings_.push_back(*more);
    }

    int64_t peak_of(const MemoryChoice& choice) const {
        return need_by_plan(choice.config, choice.ranks, progress_).peak;
    }

    MemorySetting tried(const MemoryChoice& choice) const {
        const Need need = need_by_plan(choice.config, choice.ranks, progress_);
        return {.words = words_of(run_, choice),
                .config = choice.config,
                .ranks = choice.ranks,
                .peak = need.peak,
                .on_host = need.on_host,
                .fits = need.peak <= limit_};
    }

    /// The mildest that fits, or else what needs the least; none where none needs less.
    std::optional<MemorySetting> best(const std::vector<MemoryChoice>& levels) const {
        std::optional<MemorySetting> least;
        for (const MemoryChoice& choice : levels) {
            if (!is_accepted(choice)) continue;
            const MemorySetting setting = tried(choice);
            if (setting.fits) return setting;
            if (setting.peak < (least ? least->peak : peak_)) least = setting;
        }
        return least;
    }

    /// Keys one after the other, each as strong as it gets, until the run fits; then each is left
    /// out or made milder again where it still fits.
    std::optional<MemorySetting> combined(size_t single) const {
        MemoryChoice choice = run_;
        std::vector<std::pair<size_t, size_t>> used;  // knob and level
        int64_t peak = peak_;
        for (size_t k = 0; k < knobs_.size() && peak > limit_; ++k) {
            const std::vector<MemoryChoice> levels = knobs_[k](choice);
            std::optional<size_t> least;
            for (size_t level = 0; level < levels.size(); ++level) {
                if (!is_accepted(levels[level])) continue;
                const int64_t now = peak_of(levels[level]);
                if (now >= peak) continue;
                least = level;
                peak = now;
            }
            if (!least) continue;
            used.emplace_back(k, *least);
            choice = levels[*least];
        }
        if (used.size() < 2 || single < 2) return std::nullopt;
        if (peak > limit_) return tried(choice);
        for (size_t i = used.size(); i-- > 0;) {  // what costs the most first
            std::vector<std::pair<size_t, size_t>> fewer = used;
            fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
            if (fits(fewer)) {
                used = fewer;
                continue;
            }
            while (used[i].second > 0) {
                fewer = used;
                --fewer[i].second;
                if (!fits(fewer)) break;
                used = fewer;
            }
        }
        return tried(*with(used));
    }

    std::optional<MemoryChoice> with(const std::vector<std::pair<size_t, size_t>>& used) const {
        MemoryChoice choice = run_;
        for (const auto& [knob, level] : used) {
            const std::vector<MemoryChoice> levels = knobs_[knob](choice);
            if (level >= levels.size()) return std::nullopt;
            choice = levels[level];
        }
        return choice;
    }

    bool fits(const std::vector<std::pair<size_t, size_t>>& used) const {
        const std::optional<MemoryChoice> choice = with(used);
        return choice && is_accepted(*choice) && peak_of(*choice) <= limit_;
    }

    MemoryChoice run_;
    int64_t limit_;
    PlanProgress progress_;
    std::vector<MemoryKnob> knobs_ = memory_knobs();
    int64_t peak_ = 0;
    std::vector<MemorySetting> settings_;
};

/// Says yes for so long, and calls `each_time`.
template <typename Call>
GoesOn for_seconds(int seconds, Call each_time) {
    using Clock = std::chrono::steady_clock;
    return [end = Clock::now() + std::chrono::seconds(seconds), each_time] {
        each_time();
        return Clock::now() < end;
    };
}

std::string text_of(const MemorySetting& setting, int64_t ranks) {
    std::vector<std::string> parts;
    if (!setting.words.empty()) parts.push_back(setting.words);
    if (setting.ranks != ranks)
        parts.push_back(
            fmt::format("{}on {} ranks", setting.words.empty() ? "the same " : "", setting.ranks));
    return fmt::format(
        "{} ({}{})", fmt::join(parts, " "), memory_size_text(static_cast<size_t>(setting.peak)),
        setting.on_host > 0 ? fmt::format(" and {} of the host",
                                          memory_size_text(static_cast<size_t>(setting.on_host)))
                            : "");
}

}  // namespace

int64_t peak_by_plan(const RunConfig& config, int64_t ranks) {
    return need_by_plan(config, ranks, {}).peak;
}

std::vector<MemorySetting> settings_that_need_less(const RunConfig& config, int64_t ranks,
                                                   int64_t limit, const GoesOn& goes_on) {
    return Search(config, ranks, limit, goes_on).all();
}

std::string memory_settings_text(const RunConfig& config, int64_t ranks, int64_t limit,
                                 const GoesOn& goes_on) {
    bool was_ended = false;
    const auto settings = settings_that_need_less(config, ranks, limit, [&] {
        was_ended = was_ended || (goes_on && !goes_on());
        return !was_ended;
    });
    return text_of(settings, ranks) +
           (was_ended ? "; not all was tried, for it took too long" : "");
}

std::string memory_settings_text(const RunConfig& config, int64_t ranks, int64_t limit) {
    return memory_settings_text(config, ranks, limit, for_seconds(30, [] {}));
}

std::string text_of(const std::vector<MemorySetting>& settings, int64_t ranks) {
    std::vector<std::string> fit, too_large;
    for (const MemorySetting& setting : settings)
        (setting.fits ? fit : too_large).push_back(text_of(setting, ranks));
    std::string text = fit.empty()
                           ? "no setting that was tried makes it fit"
                           : fmt::format("it fits by the plan with {}", fmt::join(fit, ", or "));
    if (!too_large.empty())
        text += fmt::format("; not enough alone: {}", fmt::join(too_large, ", "));
    return text;
}

std::string memory_advice(const RunConfig& config, int64_t ranks, const MemoryShortage& shortage,
                          const GoesOn& goes_on) {
    const auto asked = static_cast<int64_t>(shortage.asked);
    const auto held = static_cast<int64_t>(shortage.held);
    int64_t planned = 0;
    try {
        planned = need_by_plan(config, ranks, ended_by(goes_on)).peak;
    } catch (const SearchEnded&) {
        return "what would fit takes long to find: --dry-run says it";
    }
    // What can be had for sure, less what the run needs beside its plan: rounded blocks, pieces
    // that nothing fits into.
    const int64_t there =
        held + std::min(static_cast<int64_t>(shortage.available), std::max<int64_t>(0, asked - 1));
    const int64_t beside_plan = std::max<int64_t>(0, held + asked - planned);
    const int64_t limit = there - beside_plan;
    return fmt::format("a rank of this run needs {} by its plan: {}",
                       memory_size_text(static_cast<size_t>(planned)),
                       memory_settings_text(config, ranks, limit, goes_on));
}

MemoryAdvice::MemoryAdvice(const RunConfig& config, Session& session) : session_(session) {
    session_.memory().holders().advise(
        this, [config, &session, ranks = static_cast<int64_t>(session.world().size())](
                  const MemoryShortage& shortage) {
            // Ranks that wait for this one see it work.
            return memory_advice(config, ranks, shortage,
                                 for_seconds(5, [&session] { session.activity().tick(); }));
        });
}

MemoryAdvice::~MemoryAdvice() {
    session_.memory().holders().forget(this);
}

}  // namespace plinth::launch
