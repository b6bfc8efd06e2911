// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/copy_engine.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace plinth::test {
namespace {

TEST(CopyEngine, OfTheCpuCopiesAtOnce) {
    Stream stream(2);
    const auto engine = make_copy_engine(stream);
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{1} << 20}) {
        std::vector<uint8_t> from(bytes), to(bytes + 1, 0xDB);
        std::iota(from.begin(), from.end(), uint8_t{1});
        engine->wait_for_stream();
        engine->copy(to.data(), from.data(), bytes);
        EXPECT_TRUE(std::equal(from.begin(), from.end(), to.begin())) << bytes;
        EXPECT_EQ(to.back(), 0xDB);
        engine->hold_stream();
        engine->synchronize();
    }
}

}  // namespace
}  // namespace plinth::test
