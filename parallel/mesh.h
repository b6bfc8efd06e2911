// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>
#include <vector>

namespace plinth::parallel {

/// A direction in which work is divided. Rank numbers run along them with tensor fastest, then
/// context, data, pipeline: ranks that talk most are neighbours.
enum class Axis { pipeline, data, context, tensor };
inline constexpr std::array<Axis, 4> axes = {Axis::pipeline, Axis::data, Axis::context,
                                             Axis::tensor};
/// The configuration key that sets an axis, e.g. "parallel.tensor".
std::string_view key_of(Axis axis);

struct MeshConfig {
    int pipeline = 1;
    int data = 0;  ///< 0: what the others leave, ranks / (pipeline x context x tensor)
    int context = 1;
    int tensor = 1;
};

/// The ranks of the job as a grid of named axes. Pure arithmetic.
class Mesh {
  public:
    /// Refuses (kind config) sizes whose product is not `ranks`, by key.
    Mesh(int ranks, const MeshConfig& config);

    int ranks() const;
    int size(Axis axis) const { return sizes_[static_cast<size_t>(axis)]; }
    /// Where `rank` stands along `axis`: its rank in that group.
    int coordinate(int rank, Axis axis) const;
    /// The ranks that differ from `rank` along `axis` only, in order, itself included.
    std::vector<int> group(int rank, Axis axis) const;
    /// The lowest rank of that group: the color with which a world is split into such groups.
    int group_color(int rank, Axis axis) const { return group(rank, axis).front(); }

  private:
    int stride(Axis axis) const;
    std::array<int, axes.size()> sizes_{};
};

}  // namespace plinth::parallel
