// SPDX-License-Identifier: Apache-2.0
#include "core/tensor/tensor.h"

#include <gtest/gtest.h>

#include "core/tensor/shapes.h"
#include "core/tensor/shard.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using core::Tensor;

class TensorTest : public testing::Test {
  protected:
    CachingAllocator allocator_{host_memory()};
    Tensor x_ = Tensor::of<float>({0, 1, 2, 3, 4, 5}, {3, 2}, allocator_);
};

TEST_F(TensorTest, ReshapeSharesStorageAndKeepsTheGradientEdge) {
    x_.set_edge({1, 7});
    Tensor y = x_.reshape({2, 3});
    EXPECT_EQ(y.storage(), x_.storage());
    EXPECT_EQ(y.edge().value, 7);
    EXPECT_EQ(y.in().stride(0), 3);
    y.data<float>()[5] = 50.0f;
    EXPECT_EQ(x_.values<float>()[5], 50.0f);
    expect_error(
        ErrorKind::internal,
        [&] {
            x_.reshape({4, 2});
        },
        "[3, 2]", "[4, 2]");
}

TEST_F(TensorTest, RowsShareStorageWithoutAnEdge) {
    x_.set_edge({1, 7});
    Tensor middle = x_.rows(1, 3);
    EXPECT_EQ(middle.values<float>(), (std::vector<float>{2, 3, 4, 5}));
    EXPECT_FALSE(middle.edge());
    EXPECT_EQ(middle.rows(1, 2).values<float>(), (std::vector<float>{4, 5}));
    middle.data<float>()[0] = 20.0f;
    EXPECT_EQ(x_.values<float>()[2], 20.0f);
    EXPECT_EQ(x_.rows(3, 3).elements(), 0);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{-1, 2}, {2, 1}, {0, 4}})
        expect_error(
            ErrorKind::internal, [&, b = begin, e = end] { x_.rows(b, e); }, "of [3, 2]");
}

TEST_F(TensorTest, SoleOwnershipAndVersions) {
    EXPECT_TRUE(x_.is_sole_owner());
    {
        const Tensor other = x_.detach();
        EXPECT_FALSE(x_.is_sole_owner());
    }
    EXPECT_TRUE(x_.is_sole_owner());
    const uint64_t before = x_.storage()->version();
    x_.in();
    EXPECT_EQ(x_.storage()->version(), before) << "reading is no change";
    x_.rows(0, 1).out();
    EXPECT_EQ(x_.storage()->version(), before + 1) << "a view's change is one of the storage";
}

TEST_F(TensorTest, UndefinedAndBorrowedTensors) {
    Tensor nothing;
    EXPECT_FALSE(nothing.defined());
    EXPECT_FALSE(nothing.in());
    EXPECT_FALSE(nothing.out());
    float value = 1.0f;
    Tensor borrowed = Tensor::borrow(&value, {1}, DType::f32);
    borrowed.data<float>()[0] = 2.0f;
    EXPECT_EQ(value, 2.0f);
    expect_error(
        ErrorKind::internal, [&] { borrowed.data<int64_t>(); }, "i64", "f32");
    expect_error(
        ErrorKind::internal, [&] { Tensor::of<float>({1.0f}, {2}, allocator_); }, "1 values",
        "[2]");
}

TEST_F(TensorTest, ExtendsOverTheRestOfItsStorage) {
    const Tensor first = x_.reshape({3, 2}).rows(1, 2), both = first.extended(2);
    EXPECT_EQ(both.shape(), (Shape{2, 2}));
    EXPECT_EQ(both.in().data, first.in().data);
    EXPECT_EQ(first.extended(1).shape(), first.shape());
    expect_error(
        ErrorKind::internal, [&] { first.extended(3); }, "its storage ends before");
    expect_error(
        ErrorKind::internal, [&] { both.extended(1); }, "1 rows of [2, 2]");
}

TEST_F(TensorTest, ShapesAndShards) {
    EXPECT_EQ(core::with_first_dim({2, 3, 4}, 9), (Shape{9, 3, 4}));
    EXPECT_EQ(core::with_last_dim({2, 3, 4}, 9), (Shape{2, 3, 9}));
    EXPECT_EQ(core::as_matrix(x_.reshape({3, 1, 2})).shape(), (Shape{3, 2}));
    core::Shard shard = core::Shard::whole({3, 2});
    EXPECT_TRUE(shard.is_whole());
    EXPECT_EQ(shard.elements(), 6);
    shard.begin = 1;
    EXPECT_FALSE(shard.is_whole());
    EXPECT_EQ(shard.elements(), 5);
    expect_error(
        ErrorKind::internal,
        [] {
            Shape({1, 1, 1, 1, 1, 1, 1});
        },
        "at most 6");
    expect_error(
        ErrorKind::internal, [] { Shape({-1}); }, "negative");
}

}  // namespace
}  // namespace plinth::test
