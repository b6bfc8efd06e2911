// SPDX-License-Identifier: Apache-2.0
#include "launch/verify.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/io/print.h"

namespace plinth::launch {

namespace {

void say(const std::string& line) {
    core::io::print_result(line + "\n");
    core::io::flush_result();  // a layout takes seconds
}

LayoutVerdict differs(std::string text) {
    return {false, std::move(text)};
}

/// The first pieces that do not fit together, or a tensor that only one side has.
std::string structure_problem(const std::map<std::string, LayoutRecord::Tensor>& found,
                              const std::map<std::string, LayoutRecord::Tensor>& expected) {
    for (const auto& [name, tensor] : found) {
        if (!tensor.problem.empty()) return name + ": " + tensor.problem;
        const auto other = expected.find(name);
        if (other == expected.end()) return name + " is not in the run compared with";
        if (other->second.values.size() != tensor.values.size()) return name + " has another size";
    }
    for (const auto& [name, tensor] : expected)
        if (!found.contains(name)) return name + " is missing";
    return {};
}

std::string first_difference(const std::map<std::string, LayoutRecord::Tensor>& found,
                             const std::map<std::string, LayoutRecord::Tensor>& expected) {
    for (const auto& [name, tensor] : expected) {
        const std::vector<float>& other = found.at(name).values;
        for (size_t i = 0; i < tensor.values.size(); ++i)
            if (std::bit_cast<uint32_t>(tensor.values[i]) != std::bit_cast<uint32_t>(other[i]))
                return fmt::format("{} differs first in element {}: {:a} instead of {:a}", name, i,
                                   other[i], tensor.values[i]);
    }
    return {};
}

std::string first_difference(const char* what, const std::vector<double>& found,
                             const std::vector<double>& expected) {
    for (size_t step = 0; step < expected.size(); ++step)
        if (std::bit_cast<uint64_t>(found[step]) != std::bit_cast<uint64_t>(expected[step]))
            return fmt::format("{} of step {} is {:a} instead of {:a}", what, step + 1, found[step],
                               expected[step]);
    return {};
}

double worst_ratio(const std::vector<double>& found, const std::vector<double>& expected) {
    double worst = 0.0;
    for (size_t step = 0; step < expected.size(); ++step) {
        const double ratio = std::abs(found[step] - expected[step]) / std::abs(expected[step]);
        worst = std::isfinite(ratio) ? std::max(worst, ratio) : HUGE_VAL;
    }
    return worst;
}

double square(const std::vector<float>& a, const std::vector<float>* b = nullptr) {
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double x = static_cast<double>(a[i]) - (b ? static_cast<double>((*b)[i]) : 0.0);
        sum += x * x;
    }
    return sum;
}

}  // namespace

LayoutVerdict compare_bits(const LayoutRecord& found, const LayoutRecord& expected) {
    // Structure first: a comparison of values needs it.
    for (const auto& problem : {structure_problem(found.gradients, expected.gradients),
                                structure_problem(found.state, expected.state)})
        if (!problem.empty()) return differs(problem);
    for (const auto& problem : {first_difference("loss", found.losses, expected.losses),
                                first_difference("gradient norm", found.norms, expected.norms),
                                first_difference(found.gradients, expected.gradients),
                                first_difference(found.state, expected.state)})
        if (!problem.empty()) return differs(problem);
    return {true, fmt::format("equal bits over {} steps", expected.losses.size())};
}

LayoutVerdict compare_within(const LayoutRecord& found, const LayoutRecord& expected,
                             double tolerance) {
    for (const auto& problem : {structure_problem(found.gradients, expected.gradients),
                                structure_problem(found.state, expected.state)})
        if (!problem.empty()) return differs(problem);
    const double loss = worst_ratio(found.losses, expected.losses),
                 norm = worst_ratio(found.norms, expected.norms);
    double whole = 0.0, worst = 0.0;
    std::string worst_name;
    for (const auto& [name, tensor] : expected.gradients)
        whole += square(tensor.values);
    for (const auto& [name, tensor] : expected.gradients) {
        const double distance =
            std::sqrt(square(found.gradients.at(name).values, &tensor.values) / whole);
        if (!(distance <= worst)) {
            worst = std::isfinite(distance) ? distance : HUGE_VAL;
            worst_name = name;
        }
    }
    return {std::max({loss, norm, worst}) <= tolerance,
            fmt::format("within {:.1e} (loss {:.1e}, norm {:.1e}, gradient {:.1e}{}{})", tolerance,
                        loss, norm, worst, worst_name.empty() ? "" : " in ", worst_name)};
}

namespace {

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
        return compare_within(record, trained(undivided(layout, 1, 1)),
                              tolerance_of(layout.config));
    }

  private:
    /// Rounding of sums in another grouping: fp32's, or that of activations in bf16.
    double tolerance_of(const RunConfig& config) const {
        if (options_.tolerance > 0.0) return options_.tolerance;
        return config.train.dtype == ComputeType::bf16 ? 1e-2 : 1e-4;
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
            verdict = differs(error.what());
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
        ++tried;
        failed += verdict.agrees ? 0 : 1;
        say(fmt::format("{:6}  {:45} ranks {:2}  {:5.1f} s  {}",
                        verdict.agrees ? "agrees" : "FAILED", layout.name, layout.ranks,
                        seconds.count(), verdict.text));
    }
    say_refused(layouts.refused);
    say(fmt::format("tried {}, refused {}, failed {}", tried, layouts.refused.size(), failed));
    return tried > 0 && failed == 0 ? 0 : 1;
}

}  // namespace plinth::launch
