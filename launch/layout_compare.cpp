// SPDX-License-Identifier: Apache-2.0
#include "launch/layout_compare.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace plinth::launch {

namespace {

using Tensors = std::map<std::string, LayoutRecord::Tensor>;

LayoutVerdict differs(std::string text) {
    return {false, std::move(text)};
}

bool same_bits(float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

/// The first pieces that do not fit together, or a tensor that only one side has.
std::string structure_problem(const Tensors& found, const Tensors& expected) {
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

std::string first_difference(const Tensors& found, const Tensors& expected) {
    for (const auto& [name, tensor] : expected) {
        const std::vector<float>& other = found.at(name).values;
        for (size_t i = 0; i < tensor.values.size(); ++i)
            if (!same_bits(tensor.values[i], other[i]))
                return fmt::format("{} differs first in element {}: {:a} instead of {:a}", name, i,
                                   other[i], tensor.values[i]);
    }
    return {};
}

std::string first_difference(const char* what, const std::vector<double>& found,
                             const std::vector<double>& expected) {
    if (found.size() != expected.size())
        return fmt::format("{} of {} steps instead of {}", what, found.size(), expected.size());
    for (size_t step = 0; step < expected.size(); ++step)
        if (std::bit_cast<uint64_t>(found[step]) != std::bit_cast<uint64_t>(expected[step]))
            return fmt::format("{} of step {} is {:a} instead of {:a}", what, step + 1, found[step],
                               expected[step]);
    return {};
}

/// What keeps values from being compared: they come later. The first weights are functions of the
/// seed, equal in every layout.
std::string first_problem(const LayoutRecord& found, const LayoutRecord& expected) {
    for (const auto& problem : {structure_problem(found.gradients, expected.gradients),
                                structure_problem(found.state, expected.state),
                                structure_problem(found.start, expected.start)})
        if (!problem.empty()) return problem;
    const std::string start = first_difference(found.start, expected.start);
    return start.empty() ? start : "before the first step " + start;
}

/// The largest of what is added; what is no number counts as infinite.
struct Worst {
    double value = 0.0;
    std::string name;

    void add(double distance, const std::string& of) {
        if (!std::isfinite(distance)) distance = HUGE_VAL;
        if (distance < value || (distance == value && !name.empty())) return;
        value = distance;
        name = of;
    }
    /// "gradient 1.2e-07 in blocks.0.mlp.up.weight".
    std::string text(const char* what) const {
        return fmt::format("{} {:.1e} in {}", what, value, name);
    }
};

double worst_ratio(const std::vector<double>& found, const std::vector<double>& expected) {
    if (found.size() != expected.size()) return HUGE_VAL;
    double worst = 0.0;
    for (size_t step = 0; step < expected.size(); ++step) {
        const double ratio = std::abs(found[step] - expected[step]) / std::abs(expected[step]);
        worst = std::isfinite(ratio) ? std::max(worst, ratio) : HUGE_VAL;
    }
    return worst;
}

double square(const std::vector<float>& a, const std::vector<float>* minus = nullptr) {
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double x =
            static_cast<double>(a[i]) - (minus ? static_cast<double>((*minus)[i]) : 0.0);
        sum += x * x;
    }
    return sum;
}

/// sqrt(distance / size); nothing is no distance from nothing.
double share(double distance, double size) {
    return distance == 0.0 ? 0.0 : std::sqrt(distance / size);
}

/// Of the tensors whose name begins with `prefix`, relative to their own norm or, where that is
/// more, to `least` of the norm of all of them.
Worst worst_distance(const Tensors& found, const Tensors& expected, std::string_view prefix,
                     double least) {
    double whole = 0.0;
    for (const auto& [name, tensor] : expected)
        if (name.starts_with(prefix)) whole += square(tensor.values);
    Worst worst;
    for (const auto& [name, tensor] : expected) {
        if (!name.starts_with(prefix)) continue;
        const double size = std::max(square(tensor.values), least * least * whole);
        worst.add(share(square(found.at(name).values, &tensor.values), size), name);
    }
    return worst;
}

/// Of what the run has changed in a tensor of weights, each element weighed by the root of its mean
/// squared gradient in the run compared with.
double change_distance(const std::vector<float>& found, const std::vector<float>& expected,
                       const std::vector<float>& start, const std::vector<float>& found_squares,
                       const std::vector<float>& squares) {
    double distance = 0.0, size = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
        if (squares[i] == 0.0f && found_squares[i] == 0.0f && !same_bits(found[i], expected[i]))
            return HUGE_VAL;  // decay alone depends on no sum
        const double weight = static_cast<double>(squares[i]);
        const double away = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
        const double change = static_cast<double>(expected[i]) - static_cast<double>(start[i]);
        distance += weight * away * away;
        size += weight * change * change;
    }
    return share(distance, size);
}

constexpr std::string_view weights = "model.", means = "optimizer.m.", squares = "optimizer.v.";

Worst worst_change(const LayoutRecord& found, const LayoutRecord& expected) {
    Worst worst;
    for (const auto& [name, start] : expected.start) {
        CHECK(name.starts_with(weights), "{}: not a weight", name);
        const std::string of = std::string(squares) + name.substr(weights.size());
        worst.add(
            change_distance(found.state.at(name).values, expected.state.at(name).values,
                            start.values, found.state.at(of).values, expected.state.at(of).values),
            name);
    }
    return worst;
}

}  // namespace

LayoutVerdict compare_bits(const LayoutRecord& found, const LayoutRecord& expected) {
    if (const std::string problem = first_problem(found, expected); !problem.empty())
        return differs(problem);
    for (const auto& problem : {first_difference("loss", found.losses, expected.losses),
                                first_difference("gradient norm", found.norms, expected.norms),
                                first_difference(found.gradients, expected.gradients),
                                first_difference(found.state, expected.state)})
        if (!problem.empty()) return differs(problem);
    return {true, fmt::format("equal bits over {} steps", expected.losses.size())};
}

LayoutVerdict compare_within(const LayoutRecord& found, const LayoutRecord& expected,
                             const Bounds& bounds) {
    if (const std::string problem = first_problem(found, expected); !problem.empty())
        return differs(problem);
    const double loss = worst_ratio(found.losses, expected.losses),
                 norm = worst_ratio(found.norms, expected.norms);
    const Worst gradient = worst_distance(found.gradients, expected.gradients, "", least_share),
                mean = worst_distance(found.state, expected.state, means, least_share),
                mean_square =
                    worst_distance(found.state, expected.state, squares, least_share * least_share),
                change = worst_change(found, expected);
    const double of_state = std::max({change.value, mean.value, mean_square.value});
    const std::string of_sums = bounds.sums == bounds.gradient
                                    ? std::string()
                                    : fmt::format(" (allowed {:.0e})", bounds.sums);
    return {
        std::max(loss, norm) <= bounds.sums && gradient.value <= bounds.gradient &&
            of_state <= bounds.state,
        fmt::format("loss {:.1e}, norm {:.1e}{}, {} (allowed {:.0e}); {}, {}, {} (allowed {:.0e})",
                    loss, norm, of_sums, gradient.text("gradient"), bounds.gradient,
                    change.text("change"), mean.text("mean"), mean_square.text("mean square"),
                    bounds.state)};
}

}  // namespace plinth::launch
