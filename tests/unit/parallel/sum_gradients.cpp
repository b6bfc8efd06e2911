// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_ops/sum_gradients.h"

#include <gtest/gtest.h>

#include "parallel/comm/threads.h"
#include "tests/support/altered_group.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;
using parallel::Communicator;

constexpr int ranks = 3;
/// Shorter and longer than what travels at once, and as long.
const std::vector<Shape> shapes = {{5}, {40, 30}, {1024}, {1}, {7, 500}, {2048}, {3}};

std::vector<float> summand(size_t gradient, int rank) {
    // Sums of these depend on their order in the last bits.
    std::vector<float> values =
        random_values(shapes[gradient].elements(), fmt::format("gradient {} {}", gradient, rank));
    for (float& value : values)
        value *= rank == 1 ? 1e3f : 1.0f;
    return values;
}

/// Of every element: that of rank 0, and to it those of the others in their order.
std::vector<std::vector<float>> plain_sums() {
    std::vector<std::vector<float>> sums;
    for (size_t g = 0; g < shapes.size(); ++g) {
        sums.push_back(summand(g, 0));
        for (int rank = 1; rank < ranks; ++rank) {
            const std::vector<float> more = summand(g, rank);
            for (size_t i = 0; i < more.size(); ++i)
                sums.back()[i] += more[i];
        }
    }
    return sums;
}

struct Summed {
    std::vector<std::vector<float>> values;  ///< of rank 1, by gradient
    int64_t memory = 0;                      ///< at most, beside the gradients
    int collectives = 0;
};

/// Rank 1 gets nothing in collective `lost`.
Summed sum(int64_t bytes_at_once, int lost = -1) {
    Summed summed;
    parallel::run_as_threads(ranks, [&](Communicator& sound) {
        int exchanges = 0;  // a collective scatters, then gathers
        AlteredGroup group(sound, [&](const std::string& label, const auto& received) {
            if (sound.rank() == 1 && exchanges / 2 == lost) dropping("the sum")(label, received);
            ++exchanges;
        });
        Surroundings here(1);
        std::vector<std::unique_ptr<core::Parameter>> parameters;
        std::vector<Tensor> tensors;
        std::vector<core::optim::ParameterGradient> gradients;
        for (size_t g = 0; g < shapes.size(); ++g) {
            parameters.push_back(
                std::make_unique<core::Parameter>(core::Parameter::Spec{"p", shapes[g], {}}));
            tensors.push_back(Tensor::of(summand(g, sound.rank()), shapes[g], here.allocator));
        }
        for (size_t g = 0; g < shapes.size(); ++g)
            gradients.push_back({parameters[g].get(), tensors[g].out()});
        const auto before = static_cast<int64_t>(here.allocator.use().in_use);
        parallel::sum_gradients(gradients, group, "the sum", here.allocator, here.stream,
                                bytes_at_once);
        if (sound.rank() != 1) return;
        summed.memory = static_cast<int64_t>(here.allocator.use().peak) - before;
        summed.collectives = exchanges / 2;
        for (const Tensor& tensor : tensors)
            summed.values.push_back(tensor.values<float>());
    });
    return summed;
}

int64_t all_elements() {
    int64_t all = 0;
    for (const Shape& shape : shapes)
        all += shape.elements();
    return all;
}

TEST(SumGradients, CutsChangeNoBitAndBoundTheMemory) {
    const auto expected = plain_sums();
    for (const int64_t bytes : {int64_t{4096}, int64_t{1000}, 4 * all_elements(),
                                4 * all_elements() - 4, parallel::bytes_summed_at_once}) {
        const Summed found = sum(bytes);
        EXPECT_EQ(found.values, expected) << bytes;
        const int64_t elements = std::min(bytes / 4, all_elements());
        EXPECT_EQ(found.collectives, (all_elements() + elements - 1) / elements) << bytes;
        // The allocator rounds up by an eighth at most.
        EXPECT_LE(found.memory, elements * 4 * 9 / 8) << bytes;
    }
}

TEST(SumGradients, AGroupOfOneIsLeftAsItIs) {
    parallel::run_as_threads(1, [&](Communicator& group) {
        Surroundings here(1);
        core::Parameter parameter({"p", {3}, {}});
        Tensor tensor = here.tensor({1, 2, 3});
        const std::vector<core::optim::ParameterGradient> one{{&parameter, tensor.out()}};
        parallel::sum_gradients(one, group, "the sum", here.allocator, here.stream);
        EXPECT_EQ(tensor.values<float>(), (std::vector<float>{1, 2, 3}));
    });
}

TEST(SumGradientsMutants, OnePieceThatIsLeftOutShows) {
    const auto expected = plain_sums();
    const int collectives = sum(4096).collectives;
    ASSERT_GT(collectives, 4);
    for (const int lost : {0, 2, collectives - 1})
        EXPECT_NE(sum(4096, lost).values, expected) << lost;
}

}  // namespace
}  // namespace plinth::test
