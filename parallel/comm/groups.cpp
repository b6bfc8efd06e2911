// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/groups.h"

#include <string>

#include "parallel/comm/self.h"

namespace plinth::parallel {

Groups::Groups(Communicator& world, const MeshConfig& config)
    : world_(world), mesh_(world.size(), config) {
    for (const Axis axis : axes) {
        Communicator*& group = along_[static_cast<size_t>(axis)];
        if (mesh_.size(axis) == world.size()) {
            group = &world;
            continue;
        }
        // "parallel.tensor" names the group "tensor" in messages.
        const std::string name(key_of(axis).substr(key_of(axis).find('.') + 1));
        if (mesh_.size(axis) == 1)
            split_.push_back(std::make_unique<SelfCommunicator>(
                CommunicatorOptions{.name = name, .device = world.device()}));
        else
            split_.push_back(world.split(mesh_.group_color(world.rank(), axis), name));
        group = split_.back().get();
    }
}

}  // namespace plinth::parallel
