// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/parameter.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Parameter;

class ParameterTest : public testing::Test {
  protected:
    float in_bf16() {
        return static_cast<float>(parameter_.acquire(DType::bf16).data<BFloat16>()[0]);
    }

    Surroundings around_;
    const core::Scope scope_{around_.settings()};
    Parameter parameter_{{.name = "blocks.0.mlp.up.weight", .shape = {2}, .init = {}}};
};

TEST_F(ParameterTest, HasNoStorageUntilTheLayoutIsKnown) {
    EXPECT_FALSE(parameter_.is_materialized());
    EXPECT_EQ(around_.allocator.use().reserved, 0u);
    expect_error(
        ErrorKind::internal, [&] { parameter_.acquire(DType::f32); }, "blocks.0.mlp.up.weight",
        "before it has storage");
    expect_error(
        ErrorKind::internal, [&] { parameter_.materialize(around_.tensor({1.0f})); },
        "blocks.0.mlp.up.weight", "[1]", "[2]");
}

TEST_F(ParameterTest, ADerivedCopyIsMadeOnceAVersion) {
    parameter_.materialize(around_.tensor({1.0f, 2.0f}));
    EXPECT_EQ(in_bf16(), 1.0f);
    const void* copy = parameter_.acquire(DType::bf16).storage()->data();
    const uint64_t written = parameter_.acquire(DType::bf16).storage()->version();
    EXPECT_EQ(parameter_.acquire(DType::bf16).storage()->version(), written);
    parameter_.master().data<float>()[0] = 3.0f;
    EXPECT_EQ(in_bf16(), 1.0f) << "the master changed, but nobody said so";
    parameter_.changed();
    EXPECT_EQ(in_bf16(), 3.0f);
    EXPECT_EQ(parameter_.acquire(DType::bf16).storage()->data(), copy) << "the copy's memory stays";
    EXPECT_EQ(parameter_.acquire(DType::f32).storage(), parameter_.master().storage());
}

TEST_F(ParameterTest, RowsBehindItsOwnAreZeroInDerivedCopies) {
    Parameter table({.name = "table", .shape = {3, 2}, .init = {}, .row_multiple = 8});
    EXPECT_EQ(table.local_elements(), 6);
    EXPECT_EQ(table.padded_shape(), (Shape{8, 2}));
    EXPECT_EQ(table.room(), 16);
    core::Tensor all = around_.tensor(std::vector<float>(16, 0.0f)).reshape({8, 2});
    table.materialize(all.rows(0, 3));
    std::fill_n(table.master().data<float>(), 6, 5.0f);
    // What lay in the copy's memory before must not show.
    const core::Tensor before = around_.tensor(std::vector<float>(8, 7.0f));
    const void* memory = before.in().data;
    const_cast<core::Tensor&>(before) = {};
    for (int version = 0; version < 2; ++version) {
        const core::Tensor copy = table.acquire(DType::bf16);
        EXPECT_EQ(copy.in().data, memory) << "else the memory says nothing";
        EXPECT_EQ(copy.shape(), table.shape());
        const std::vector<BFloat16> values = table.padded(copy).values<BFloat16>();
        for (size_t i = 0; i < 16; ++i)
            EXPECT_EQ(static_cast<float>(values[i]), i < 6 ? 5.0f : 0.0f) << i;
        table.release();
        table.changed();
    }
    expect_error(
        ErrorKind::internal, [&] { table.padded(all); }, "[8, 2] are not its weights [3, 2]");
    Parameter plain({.name = "plain", .shape = {3, 2}, .init = {}});
    EXPECT_EQ(plain.padded_shape(), plain.shape());
    expect_error(
        ErrorKind::internal, [] { Parameter({.name = "scalar", .shape = Shape{}, .init = {}}); },
        "scalar");
}

TEST_F(ParameterTest, TheRoomIsThatOfTheRankThatHoldsTheMost) {
    Parameter table({.name = "table", .shape = {17, 2}, .init = {}, .row_multiple = 8});
    core::Shard box = core::Shard::whole(table.shape());
    box.local_shape = {8, 2};
    box.end = 16;
    table.place({box}, /*most_rows=*/9);
    EXPECT_EQ(table.padded_shape(), (Shape{8, 2}));
    EXPECT_EQ(table.room(), 32);
}

TEST_F(ParameterTest, AGradientNeedsAPlace) {
    parameter_.materialize(around_.tensor({1.0f, 2.0f}));
    expect_error(
        ErrorKind::internal, [&] { parameter_.add_gradient(0, [](View) {}); },
        "blocks.0.mlp.up.weight", "nothing collects it");
}

TEST_F(ParameterTest, EachAcquireIsReleasedOnce) {
    parameter_.materialize(around_.tensor({1.0f, 2.0f}));
    parameter_.acquire(DType::f32);
    parameter_.acquire(DType::bf16);
    EXPECT_EQ(parameter_.readers(), 2);
    parameter_.release();
    parameter_.release();
    EXPECT_EQ(parameter_.readers(), 0);
    expect_error(
        ErrorKind::internal, [&] { parameter_.release(); }, "blocks.0.mlp.up.weight",
        "released more often");
}

TEST_F(ParameterTest, TakesWeightsFromASource) {
    struct Source final : core::WeightSource {
        core::Tensor weights;
        int held = 0;
        const core::Tensor& acquire(Parameter&, DType) override {
            ++held;
            return weights;
        }
        void release(Parameter&) override { --held; }
    } source;
    source.weights = around_.tensor({5.0f, 6.0f});
    parameter_.set_source(&source);
    EXPECT_TRUE(parameter_.is_materialized());
    EXPECT_EQ(parameter_.acquire(DType::f32).data<float>()[1], 6.0f);
    EXPECT_EQ(source.held, 1);
    parameter_.release();
    EXPECT_EQ(source.held, 0);
    Parameter matrix({.name = "w", .shape = {2, 2}});
    EXPECT_EQ(matrix.read_as(DType::bf16), DType::bf16);
    EXPECT_EQ(parameter_.read_as(DType::bf16), DType::f32);
}

TEST_F(ParameterTest, CountsUses) {
    EXPECT_EQ(parameter_.add_use(), 0);
    EXPECT_EQ(parameter_.add_use(), 1);
    EXPECT_EQ(parameter_.uses(), 2);
}

}  // namespace
}  // namespace plinth::test
