// SPDX-License-Identifier: Apache-2.0
#include "launch/verify.h"

#include <algorithm>
#include <chrono>

#include "core/io/print.h"
#include "launch/plan.h"

namespace plinth::launch {

namespace {

void say(const std::string& line) {
    core::io::print_result(line + "\n");
    core::io::flush_result();  // a layout takes seconds
}

/// Trains layouts that others are compared with once each.
class Comparison {
  public:
    explicit Comparison(const VerifySection& options) : options_(options) {}

    LayoutVerdict judge(const Layout& layout) {
        const LayoutRecord record = train_layout(layout, options_.steps);
        const ParallelSection& parallel = layout.config.parallel;
        const Layout base = undivided(layout, parallel.tensor, parallel.context);
        if (base.name != layout.name) return compare_bits(record, trained(base));
        trained_.insert_or_assign(key_of(layout), record);
        if (layout.ranks == 1) return {true, "what the others are compared with"};
        return compare_within(record, trained(undivided(layout, 1, 1)), bounds_of(layout.config));
    }

    /// What made the comparisons hard, in the words of the undivided run; empty if none was
    /// trained.
    std::string undivided_text(const RunConfig& config) const {
        const Layout one = undivided(layout_of(config, 1), 1, 1);
        const auto found = trained_.find(key_of(one));
        if (found == trained_.end()) return "";
        const double clip = config.optimizer.clip;
        const auto clipped = std::ranges::count_if(
            found->second.norms, [clip](double norm) { return clip > 0.0 && norm > clip; });
        return fmt::format("{}: {} buckets of gradients, dropout {}, {} of {} steps clipped",
                           one.name, bucket_counts(one.config).front(), config.model.dropout,
                           clipped, found->second.norms.size());
    }

  private:
    /// Rounding of sums in another grouping: fp32's, that of activations in bf16, of shards to 8
    /// bits, or of moments that such sums have reached.
    Bounds bounds_of(const RunConfig& config) const {
        if (options_.tolerance > 0.0) return options_.tolerance;
        if (config.train.fp8 != Fp8Scaling::none) return fp8_bounds;
        if (config.train.dtype == ComputeType::bf16) return bf16_tolerance;
        return config.optimizer.moments == ComputeType::bf16 ? rounded_moments_bounds
                                                             : Bounds(fp32_tolerance);
    }
    /// Same lanes, nothing divided but tensor and context as given.
    static Layout undivided(const Layout& layout, int64_t tensor, int64_t context) {
        RunConfig config = layout.config;
        config.parallel = with_schedule(config.parallel, 1, PipelineSchedule::one_f_one_b);
        config.parallel.data = 1;
        config.parallel.zero = 0;
        config.parallel.tensor = tensor;
        config.parallel.context = context;
        return layout_of(config, static_cast<int>(tensor * context));
    }
    static std::string key_of(const Layout& layout) {
        return fmt::format("{} lanes={}", layout.name, layout.config.train.lanes);
    }
    const LayoutRecord& trained(const Layout& layout) {
        const auto found = trained_.find(key_of(layout));
        if (found != trained_.end()) return found->second;
        return trained_.emplace(key_of(layout), train_layout(layout, options_.steps)).first->second;
    }

    const VerifySection& options_;
    std::map<std::string, LayoutRecord> trained_;
};

/// Each reason once, with how many layouts it refuses and one of them.
void say_refused(const std::vector<RefusedLayout>& refused) {
    std::map<std::string, std::vector<std::string>> by_reason;
    for (const RefusedLayout& layout : refused)
        by_reason[layout.reason].push_back(layout.name);
    for (const auto& [reason, names] : by_reason)
        say(fmt::format("refused {:4}  {} ({}{})", names.size(), reason, names.front(),
                        names.size() > 1 ? ", ..." : ""));
}

/// What was tried on each axis.
void say_axes(const Layouts& layouts) {
    std::string tried;
    for (const AxisCount& axis : count_axes(layouts))
        if (axis.valid > 0)
            tried += fmt::format("{}{} {}", tried.empty() ? "" : ", ", axis.name, axis.valid);
    if (!tried.empty()) say("tried by axis: " + tried);
}

/// Axes of which all layouts were refused, and why; empty if there are none.
std::string untried_text(const Layouts& layouts) {
    std::string text;
    for (const AxisCount& axis : count_axes(layouts))
        if (axis.valid == 0 && axis.refused > 0)
            text += fmt::format("; NEVER TRIED: {} ({} refused: {})", axis.name, axis.refused,
                                axis.reason);
    return text;
}

}  // namespace

int verify(const VerifyConfig& config) {
    Layouts layouts;
    if (config.verify.layouts == VerifyLayouts::all) {
        layouts = all_layouts(config.run, config.verify.ranks);
    } else {
        const int64_t ranks = std::max<int64_t>(1, config.run.parallel.data) *
                              config.run.parallel.tensor * config.run.parallel.pipeline *
                              config.run.parallel.context;
        const auto problem = validate_world(config.run, ranks);
        REQUIRE(config, !problem, "{}: {}", problem->key, problem->message);
        layouts.valid.push_back(layout_of(config.run, static_cast<int>(ranks)));
    }
    Comparison comparison(config.verify);
    int64_t tried = 0, failed = 0;
    for (const Layout& layout : layouts.valid) {
        const auto began = std::chrono::steady_clock::now();
        LayoutVerdict verdict;
        try {
            verdict = comparison.judge(layout);
        } catch (const Error& error) {
            verdict = {false, error.what()};
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
        ++tried;
        failed += verdict.agrees ? 0 : 1;
        say(fmt::format("{:6}  {:45} ranks {:2}  {:5.1f} s  {}",
                        verdict.agrees ? "agrees" : "FAILED", layout.name, layout.ranks,
                        seconds.count(), verdict.text));
    }
    say_refused(layouts.refused);
    if (config.verify.layouts == VerifyLayouts::all) say_axes(layouts);
    if (const std::string text = comparison.undivided_text(config.run); !text.empty()) say(text);
    say(fmt::format("tried {}, refused {}, failed {}{}", tried, layouts.refused.size(), failed,
                    untried_text(layouts)));
    return tried > 0 && failed == 0 ? 0 : 1;
}

}  // namespace plinth::launch
