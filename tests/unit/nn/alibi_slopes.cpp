// SPDX-License-Identifier: Apache-2.0
// ALiBi's slopes on their way to where attention reads them.
#include <gtest/gtest.h>

#include <numeric>

#include "core/autograd/scope.h"
#include "core/nn/attention.h"
#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;
using core::nn::AlibiSlopes;

constexpr int64_t T = 32, H = 3, K = 8;

TEST(AlibiSlopes, AreThoseOfTheHeadsThatAreHere) {
    Surroundings around(1);
    const core::Scope scope(around.settings());
    const std::vector<float> all = kernels::alibi_slopes(6);
    EXPECT_EQ(AlibiSlopes(6, 2, 3).get().values<float>(),
              (std::vector<float>{all[2], all[3], all[4]}));
    EXPECT_FALSE(AlibiSlopes().get().defined());
}

TEST(AlibiSlopes, AreUploadedOnceAndStay) {
    Surroundings around(1);
    const core::Scope scope(around.settings());
    const AlibiSlopes slopes(H, 0, H);
    expect_error(
        ErrorKind::internal, [&] { around.stream.capture([&] { slopes.get(); }); },
        "captured work would upload");
    const void* first = slopes.get().in().data;
    const Tensor taken = scope.empty({H}, DType::f32);
    EXPECT_EQ(slopes.get().in().data, first);
    EXPECT_NE(taken.in().data, first);
    const auto graph = around.stream.capture([&] { slopes.get(); });
    EXPECT_EQ(graph->size(), 0u) << "nothing is uploaded again";
}

// The host's memory is another's when captured work is launched.
TEST(AlibiSlopes, AMutantThatUploadsThemInEachPassIsSeen) {
    Surroundings around(1);
    const core::Scope scope(around.settings());
    std::vector<float> values(static_cast<size_t>(T * 3 * H * K));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(i * 7919 % 101) / 50.0f - 1.0f;
    const Tensor qkv = scope.of(values, {1, T, 3 * H * K});
    const AlibiSlopes slopes(H, 0, H);
    slopes.get();
    std::vector<float> in_host_memory = kernels::alibi_slopes(H);
    const kernels::Attention options{.heads = H, .kv_heads = H};
    const auto attend = [&](const Tensor& with) {
        return core::ops::attention(qkv, options, {.slopes = with, .documents = {}, .samples = {}});
    };
    const auto expected = attend(slopes.get()).values<float>();
    Tensor found, mutant, place = scope.empty({H}, DType::f32);
    const auto graph = around.stream.capture([&] { found = attend(slopes.get()); });
    const auto uploads = around.stream.capture([&] {
        around.stream.copy(place.out().data, in_host_memory.data(), H * sizeof(float));
        mutant = attend(place);
    });
    in_host_memory.assign(H, 0.0f);
    graph->launch();
    uploads->launch();
    EXPECT_EQ(found.values<float>(), expected);
    EXPECT_NE(mutant.values<float>(), expected);
}

}  // namespace
}  // namespace plinth::test
