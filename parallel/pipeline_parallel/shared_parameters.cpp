// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/shared_parameters.h"

#include <map>
#include <sstream>

#include "kernels/add.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Parameter;

namespace {

/// Stages by the name of a parameter that they hold.
std::map<std::string, std::vector<int>> stages_by_name(std::span<Parameter* const> mine,
                                                       Communicator& stages) {
    std::string names;
    for (const Parameter* parameter : mine)
        names += parameter->name() + "\n";
    std::map<std::string, std::vector<int>> holders;
    const std::vector<std::string> all = stages.all_gather("names of parameters", names);
    for (size_t stage = 0; stage < all.size(); ++stage) {
        std::istringstream lines(all[stage]);
        for (std::string name; std::getline(lines, name);)
            holders[name].push_back(static_cast<int>(stage));
    }
    return holders;
}

}  // namespace

SharedParameters::SharedParameters(std::span<Parameter* const> mine, Communicator& stages,
                                   CachingAllocator& allocator, Stream& stream)
    : allocator_(allocator), stream_(stream) {
    if (stages.size() == 1) return;
    const auto holders = stages_by_name(mine, stages);
    std::vector<int> group;
    for (const auto& [name, where] : holders) {
        if (where.size() == 1) continue;
        CHECK(where.size() == 2 && (group.empty() || group == where),
              "{}: held by {} stages, or by others than the parameters before", name, where.size());
        group = where;
    }
    if (group.empty()) return;
    const bool holds = stages.rank() == group[0] || stages.rank() == group[1];
    auto split = stages.split(holds ? 1 : 0, "tied parameters");
    if (!holds) return;
    holders_ = std::move(split);
    is_first_ = holders_->rank() == 0;
    for (Parameter* parameter : mine)
        if (holders.at(parameter->name()).size() == 2) {
            order_.push_back(parameter);
            shared_.insert(parameter);
        }
}

void SharedParameters::add(std::span<const core::optim::ParameterGradient> gradients) {
    if (!holders_) return;
    const int other = 1 - holders_->rank();
    for (const core::optim::ParameterGradient& entry : gradients) {
        if (!contains(*entry.parameter)) continue;
        const View mine = entry.gradient;
        core::Tensor received = core::Tensor::empty({mine.elements()}, DType::f32, allocator_);
        const View theirs(received.out().data, DType::f32, mine.shape, mine.device);
        holders_->send_receive("gradient of " + entry.parameter->name(), bytes_of(ConstView(mine)),
                               other, bytes_of(theirs), other);
        kernels::add(mine, is_first_ ? mine : theirs, is_first_ ? theirs : mine, stream_);
    }
}

}  // namespace plinth::parallel
