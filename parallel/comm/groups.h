// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/mesh.h"

namespace plinth::parallel {

/// The communicators of one rank: the world, and its group along each axis of the mesh. A value
/// that is handed to whoever needs a group.
class Groups {
  public:
    /// Collective over the world, which must outlive it.
    Groups(Communicator& world, const MeshConfig& config);

    const Mesh& mesh() const { return mesh_; }
    Communicator& world() const { return world_; }
    /// The ranks that differ from this one along `axis` only. The world itself where the axis is
    /// the only one.
    Communicator& along(Axis axis) const { return *along_[static_cast<size_t>(axis)]; }
    int coordinate(Axis axis) const { return mesh_.coordinate(world_.rank(), axis); }
    int size(Axis axis) const { return mesh_.size(axis); }
    bool is_first(Axis axis) const { return coordinate(axis) == 0; }
    bool is_last(Axis axis) const { return coordinate(axis) == size(axis) - 1; }
    /// True on the one rank that speaks for a micro-batch among those that compute it together: the
    /// last stage, which has the loss, first of its tensor and context groups.
    bool speaks_for_slot() const {
        return is_last(Axis::pipeline) && is_first(Axis::tensor) && is_first(Axis::context);
    }

  private:
    Communicator& world_;
    Mesh mesh_;
    std::vector<std::unique_ptr<Communicator>> split_;
    std::array<Communicator*, axes.size()> along_{};
};

}  // namespace plinth::parallel
