// SPDX-License-Identifier: Apache-2.0
#include "parallel/mesh.h"

#include "kernels/runtime/error.h"

namespace plinth::parallel {

std::string_view key_of(Axis axis) {
    switch (axis) {
        case Axis::pipeline:
            return "parallel.pipeline";
        case Axis::data:
            return "parallel.data";
        case Axis::context:
            return "parallel.context";
        case Axis::tensor:
            return "parallel.tensor";
    }
    return "";
}

Mesh::Mesh(int ranks, const MeshConfig& config)
    : sizes_{config.pipeline, config.data, config.context, config.tensor} {
    CHECK(ranks > 0, "{} ranks", ranks);
    int others = 1;
    for (const Axis axis : axes) {
        if (axis == Axis::data) continue;
        REQUIRE(config, size(axis) >= 1, "{}: must be at least 1, got {}", key_of(axis),
                size(axis));
        others *= size(axis);
    }
    REQUIRE(config, config.data >= 0, "parallel.data: must not be negative, got {}", config.data);
    if (config.data == 0) {
        REQUIRE(
            config, ranks % others == 0,
            "parallel.pipeline x parallel.context x parallel.tensor = {} x {} x {} = {} does not "
            "divide the {} ranks of this job",
            config.pipeline, config.context, config.tensor, others, ranks);
        sizes_[static_cast<size_t>(Axis::data)] = ranks / others;
    }
    REQUIRE(config, others * size(Axis::data) == ranks,
            "parallel.data x the other axes = {} x {} = {}, but this job has {} ranks: start {} "
            "ranks, or leave parallel.data out",
            size(Axis::data), others, others * size(Axis::data), ranks, others * size(Axis::data));
}

int Mesh::stride(Axis axis) const {
    int stride = 1;
    for (size_t faster = static_cast<size_t>(axis) + 1; faster < axes.size(); ++faster)
        stride *= sizes_[faster];
    return stride;
}

int Mesh::ranks() const {
    return stride(Axis::pipeline) * size(Axis::pipeline);
}

int Mesh::coordinate(int rank, Axis axis) const {
    CHECK(rank >= 0 && rank < ranks(), "rank {} of {}", rank, ranks());
    return rank / stride(axis) % size(axis);
}

std::vector<int> Mesh::group(int rank, Axis axis) const {
    const int first = rank - coordinate(rank, axis) * stride(axis);
    std::vector<int> members;
    for (int i = 0; i < size(axis); ++i)
        members.push_back(first + i * stride(axis));
    return members;
}

}  // namespace plinth::parallel
