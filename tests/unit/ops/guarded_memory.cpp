// SPDX-License-Identifier: Apache-2.0
// The guard bytes that every test of an op relies on.
#include <gtest/gtest.h>

#include <cstring>

#include "core/tensor/tensor.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

/// Broken guards of the memory while the byte at `at` of a block has another value.
int broken_with(const GuardedMemory& memory, void* block, std::ptrdiff_t at) {
    unsigned char& byte = static_cast<unsigned char*>(block)[at];
    byte ^= 1;
    const int broken = memory.broken_guards();
    byte ^= 1;
    return broken;
}

TEST(GuardedMemory, OneByteBeforeOrPastABlockIsCounted) {
    for (const size_t bytes : {size_t{1}, size_t{7}, size_t{64}, size_t{4096}, size_t{12345}}) {
        GuardedMemory memory;
        void* const block = memory.allocate(bytes);
        const auto end = static_cast<std::ptrdiff_t>(bytes);
        std::memset(block, 0, bytes);
        EXPECT_EQ(memory.broken_guards(), 0) << bytes << " bytes of its own";
        for (const std::ptrdiff_t at : {std::ptrdiff_t{-1}, std::ptrdiff_t{-2},
                                        std::ptrdiff_t{-256}, end, end + 1, end + 255})
            EXPECT_EQ(broken_with(memory, block, at), 1) << at << " of " << bytes;
        for (const std::ptrdiff_t at : {std::ptrdiff_t{0}, end - 1})
            EXPECT_EQ(broken_with(memory, block, at), 0) << at << " of " << bytes;
        EXPECT_EQ(memory.broken_guards(), 0);
        memory.free(block, bytes);
    }
}

TEST(GuardedMemory, EachBlockIsCountedOnce) {
    GuardedMemory memory;
    void *const one = memory.allocate(10), *const two = memory.allocate(20);
    auto* bytes = static_cast<unsigned char*>(one);
    bytes[-1] = bytes[10] = 0;
    EXPECT_EQ(memory.broken_guards(), 1);
    EXPECT_EQ(broken_with(memory, two, 20), 2);
    EXPECT_EQ(broken_with(memory, two, -1), 2);
    memory.free(one, 10);
    EXPECT_EQ(memory.broken_guards(), 1) << "the memory of a block that is gone";
    memory.free(two, 20);
}

/// What a kernel writes past the last element of an odd shape, and before the first.
class GuardedTensors : public OpTest {};

TEST_F(GuardedTensors, TheBytesBesideATensorAreGuarded) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& shape : {Shape{1}, Shape{3, 5}, Shape{67, 129}}) {
            core::Tensor y = core::Tensor::empty(shape, dtype, *allocator_);
            void* const data = y.out().data;
            EXPECT_EQ(broken_with(memory_, data, static_cast<std::ptrdiff_t>(y.in().bytes())), 1)
                << shape.text();
            EXPECT_EQ(broken_with(memory_, data, -1), 1) << shape.text();
        }
}

}  // namespace
}  // namespace plinth::test
