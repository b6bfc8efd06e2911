// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_settings.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "launch/plan.h"
#include "launch/plan_shares.h"
#include "launch/session.h"

namespace plinth::launch {

namespace {

/// A run as it might be.
struct Choice {
    RunConfig config;
    int64_t ranks = 1;
};

/// One key, or keys that belong together, at rising strength: the mildest first.
using Knob = std::vector<Choice> (*)(const Choice&);

int64_t slots_of(const RunConfig& config) {
    return config.train.global_batch / config.train.micro_batch;
}

int64_t data_ranks_of(const Choice& choice) {
    const ParallelSection& parallel = choice.config.parallel;
    return choice.ranks / (parallel.tensor * parallel.pipeline * parallel.context);
}

/// With as many lanes as its ZeRO stage and its ranks ask for.
Choice with_lanes(Choice choice) {
    TrainSection& train = choice.config.train;
    train.lanes = choice.config.parallel.zero >= 2 ? slots_of(choice.config)
                                                   : std::max(train.lanes, data_ranks_of(choice));
    return choice;
}

std::vector<Choice> smaller_micro_batches(const Choice& from) {
    std::vector<Choice> levels;
    for (int64_t size = from.config.train.micro_batch / 2; size >= 1; size /= 2) {
        if (from.config.train.global_batch % size != 0) continue;
        Choice choice = from;
        choice.config.train.micro_batch = size;
        levels.push_back(with_lanes(choice));
    }
    return levels;
}

std::vector<Choice> more_recompute(const Choice& from) {
    std::vector<Choice> levels;
    for (const Recompute recompute : {Recompute::norms, Recompute::selective, Recompute::full}) {
        if (recompute <= from.config.train.recompute) continue;
        Choice choice = from;
        choice.config.train.recompute = recompute;
        levels.push_back(choice);
    }
    return levels;
}

std::vector<Choice> offloaded_activations(const Choice& from) {
    if (!is_on_gpu(from.config) || from.config.train.offload_activations) return {};
    Choice choice = from;
    choice.config.train.recompute = Recompute::full;
    choice.config.train.offload_activations = true;
    return {choice};
}

std::vector<Choice> narrow_moments(const Choice& from) {
    Choice choice = from;
    choice.config.optimizer.moments = ComputeType::bf16;
    return {choice};
}

std::vector<Choice> fewer_lanes(const Choice& from) {
    if (from.config.parallel.zero >= 2) return {};
    Choice choice = from;
    choice.config.train.lanes = data_ranks_of(from);
    return {choice};
}

std::vector<Choice> higher_zero(const Choice& from) {
    std::vector<Choice> levels;
    if (data_ranks_of(from) == 1) return levels;
    for (int64_t zero = from.config.parallel.zero + 1; zero <= 3; ++zero) {
        Choice choice = from;
        choice.config.parallel.zero = zero;
        levels.push_back(with_lanes(choice));
    }
    return levels;
}

std::vector<Choice> offloaded_states(const Choice& from) {
    if (!is_on_gpu(from.config)) return {};
    Choice choice = from;
    choice.config.optimizer.offload = OptimizerOffload::states;
    return {choice};
}

std::vector<Choice> more_data_ranks(const Choice& from) {
    constexpr int64_t most = 64;
    std::vector<Choice> levels;
    for (int64_t times = 2; times <= most; times *= 2)
        for (const int64_t zero : {int64_t{1}, int64_t{3}}) {
            if (zero < from.config.parallel.zero) continue;
            Choice choice = from;
            choice.ranks *= times;
            if (choice.config.parallel.data != 0) choice.config.parallel.data *= times;
            choice.config.parallel.zero = zero;
            levels.push_back(with_lanes(choice));
        }
    return levels;
}

/// In the order in which a user would try them: what costs the least first.
constexpr Knob knobs[] = {smaller_micro_batches, more_recompute, offloaded_activations, fewer_lanes,
                          narrow_moments,        higher_zero,    offloaded_states};

bool is_accepted(const Choice& choice) {
    return !validate(choice.config.train) && !validate_world(choice.config, choice.ranks);
}

std::string words_of(const Choice& from, const Choice& to) {
    std::vector<std::string> words;
    const auto add = [&](const char* key, const auto& before, const auto& now,
                         const std::string& text) {
        if (before != now) words.push_back(fmt::format("{}={}", key, text));
    };
    const TrainSection &train = from.config.train, &new_train = to.config.train;
    const ParallelSection &parallel = from.config.parallel, &new_parallel = to.config.parallel;
    add("train.micro_batch", train.micro_batch, new_train.micro_batch,
        std::to_string(new_train.micro_batch));
    // Beside another micro-batch always: where no file names them, they would follow it.
    add("train.lanes", train.micro_batch == new_train.micro_batch ? train.lanes : 0,
        new_train.lanes, std::to_string(new_train.lanes));
    add("train.recompute", train.recompute, new_train.recompute,
        new_train.recompute == Recompute::full        ? "full"
        : new_train.recompute == Recompute::selective ? "selective"
                                                      : "norms");
    add("train.offload_activations", train.offload_activations, new_train.offload_activations,
        "true");
    add("optimizer.moments", from.config.optimizer.moments, to.config.optimizer.moments, "bf16");
    add("optimizer.offload", from.config.optimizer.offload, to.config.optimizer.offload, "states");
    add("parallel.data", parallel.data, new_parallel.data, std::to_string(new_parallel.data));
    add("parallel.zero", parallel.zero, new_parallel.zero, std::to_string(new_parallel.zero));
    return fmt::format("{}", fmt::join(words, " "));
}

class Search {
  public:
    Search(const RunConfig& config, int64_t ranks, int64_t limit)
        : run_{config, ranks}, limit_(limit), peak_(peak_by_plan(config, ranks)) {}

    std::vector<MemorySetting> all() {
        std::vector<MemorySetting> settings;
        for (const Knob knob : knobs)
            if (auto one = best(knob(run_))) settings.push_back(*one);
        if (std::ranges::none_of(settings, &MemorySetting::fits))
            if (auto together = combined(settings.size())) settings.push_back(*together);
        if (auto more = best(more_data_ranks(run_))) settings.push_back(*more);
        return settings;
    }

  private:
    MemorySetting tried(const Choice& choice) const {
        MemorySetting setting{.words = words_of(run_, choice),
                              .config = choice.config,
                              .ranks = choice.ranks,
                              .peak = peak_by_plan(choice.config, choice.ranks)};
        if (is_on_gpu(choice.config))
            setting.on_host = memory_plan(choice.config, choice.ranks).on_host();
        setting.fits = setting.peak <= limit_;
        return setting;
    }

    /// The mildest that fits, or else what needs the least; none where none needs less.
    std::optional<MemorySetting> best(const std::vector<Choice>& levels) const {
        std::optional<MemorySetting> least;
        for (const Choice& choice : levels) {
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
        Choice choice = run_;
        std::vector<std::pair<size_t, size_t>> used;  // knob and level
        int64_t peak = peak_;
        for (size_t k = 0; k < std::size(knobs) && peak > limit_; ++k) {
            std::vector<Choice> levels = knobs[k](choice);
            while (!levels.empty() && !is_accepted(levels.back()))
                levels.pop_back();
            if (levels.empty()) continue;
            const int64_t now = peak_by_plan(levels.back().config, levels.back().ranks);
            if (now >= peak) continue;
            used.emplace_back(k, levels.size() - 1);
            choice = levels.back();
            peak = now;
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

    std::optional<Choice> with(const std::vector<std::pair<size_t, size_t>>& used) const {
        Choice choice = run_;
        for (const auto& [knob, level] : used) {
            const std::vector<Choice> levels = knobs[knob](choice);
            if (level >= levels.size()) return std::nullopt;
            choice = levels[level];
        }
        return choice;
    }

    bool fits(const std::vector<std::pair<size_t, size_t>>& used) const {
        const std::optional<Choice> choice = with(used);
        return choice && is_accepted(*choice) &&
               peak_by_plan(choice->config, choice->ranks) <= limit_;
    }

    Choice run_;
    int64_t limit_;
    int64_t peak_;
};

std::string text_of(const MemorySetting& setting, int64_t ranks) {
    return fmt::format("{}{} ({}{})", setting.words,
                       setting.ranks == ranks ? "" : fmt::format(" on {} ranks", setting.ranks),
                       memory_size_text(static_cast<size_t>(setting.peak)),
                       setting.on_host > 0
                           ? fmt::format(" and {} of the host",
                                         memory_size_text(static_cast<size_t>(setting.on_host)))
                           : "");
}

}  // namespace

int64_t peak_by_plan(const RunConfig& config, int64_t ranks) {
    int64_t peak = 0;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        const MemoryPlan plan = memory_plan(config, ranks, stage);
        peak = std::max(peak, is_on_gpu(config) ? plan.computing() : plan.total());
    }
    return peak;
}

std::vector<MemorySetting> settings_that_need_less(const RunConfig& config, int64_t ranks,
                                                   int64_t limit) {
    return Search(config, ranks, limit).all();
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

std::string memory_advice(const RunConfig& config, int64_t ranks, const MemoryShortage& shortage) {
    const auto asked = static_cast<int64_t>(shortage.asked);
    const auto held = static_cast<int64_t>(shortage.held);
    const int64_t planned = peak_by_plan(config, ranks);
    // What can be had for sure, less what the run needs beside its plan: rounded blocks, pieces
    // that nothing fits into.
    const int64_t there =
        held + std::min(static_cast<int64_t>(shortage.available), std::max<int64_t>(0, asked - 1));
    const int64_t beside_plan = std::max<int64_t>(0, held + asked - planned);
    const int64_t limit = there - beside_plan;
    return fmt::format("a rank of this run needs {} by its plan: {}",
                       memory_size_text(static_cast<size_t>(planned)),
                       text_of(settings_that_need_less(config, ranks, limit), ranks));
}

MemoryAdvice::MemoryAdvice(const RunConfig& config, Session& session) : session_(session) {
    session_.memory().holders().advise(
        this,
        [config, ranks = static_cast<int64_t>(session.world().size())](
            const MemoryShortage& shortage) { return memory_advice(config, ranks, shortage); });
}

MemoryAdvice::~MemoryAdvice() {
    session_.memory().holders().forget(this);
}

}  // namespace plinth::launch
