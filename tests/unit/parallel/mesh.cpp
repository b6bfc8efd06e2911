// SPDX-License-Identifier: Apache-2.0
#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::Axis;
using parallel::Mesh;

TEST(Mesh, TensorIsFastestThenContextDataPipeline) {
    const Mesh mesh(24, {.pipeline = 2, .data = 3, .context = 1, .tensor = 4});
    EXPECT_EQ(mesh.ranks(), 24);
    EXPECT_EQ(mesh.coordinate(17, Axis::tensor), 1);
    EXPECT_EQ(mesh.coordinate(17, Axis::data), 1);
    EXPECT_EQ(mesh.coordinate(17, Axis::pipeline), 1);
    EXPECT_EQ(mesh.group(17, Axis::tensor), (std::vector<int>{16, 17, 18, 19}));
    EXPECT_EQ(mesh.group(17, Axis::data), (std::vector<int>{13, 17, 21}));
    EXPECT_EQ(mesh.group(17, Axis::pipeline), (std::vector<int>{5, 17}));
    EXPECT_EQ(mesh.group(17, Axis::context), (std::vector<int>{17}));
    EXPECT_EQ(mesh.group_color(17, Axis::data), 13);
}

TEST(Mesh, DataTakesWhatIsLeft) {
    EXPECT_EQ(Mesh(12, {.tensor = 3}).size(Axis::data), 4);
    EXPECT_EQ(Mesh(1, {}).size(Axis::data), 1);
}

TEST(Mesh, WrongSizesAreRefusedByKey) {
    expect_error(
        ErrorKind::config, [] { Mesh(8, {.data = 3}); }, "parallel.data", "8 ranks",
        "start 3 ranks");
    expect_error(
        ErrorKind::config, [] { Mesh(8, {.tensor = 3}); }, "parallel.tensor", "does not divide");
    expect_error(
        ErrorKind::config, [] { Mesh(8, {.pipeline = 0}); }, "parallel.pipeline", "at least 1");
}

}  // namespace
}  // namespace plinth::test
