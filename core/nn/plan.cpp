// SPDX-License-Identifier: Apache-2.0
#include "core/nn/plan.h"

namespace plinth::core::nn {

namespace {

/// Cuts the first part off a path.
std::string_view next_part(std::string_view& path) {
    const size_t end = std::min(path.find('.'), path.size());
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    return part;
}

bool fits(std::string_view pattern, std::string_view path) {
    while (!pattern.empty() && !path.empty()) {
        const std::string_view wanted = next_part(pattern), part = next_part(path);
        if (wanted != "*" && wanted != part) return false;
    }
    return pattern.empty() && path.empty();
}

}  // namespace

const PlanRow* find_row(const Plan& plan, std::string_view path) {
    for (const PlanRow& row : plan)
        if (fits(row.path, path)) return &row;
    return nullptr;
}

}  // namespace plinth::core::nn
