// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "core/models/transformer_plan.h"
#include "parallel/buckets.h"
#include "parallel/tensor_parallel/tensor_layout.h"
#include "tests/support/expect_error.h"
#include "tests/unit/parallel/tensor_models.h"

namespace plinth::test {
namespace {

using core::models::Transformer;
using core::nn::Declaration;
using core::nn::Placement;

TEST(PlannedLayout, CutsEachThingThatAProductMakes) {
    core::models::Transformer model(
        llama(), parallel::PlannedLayout(core::models::transformer_plan(llama()), 1, 4));
    const auto boxes = [&](const std::string& name) {
        std::string text;
        for (const core::Shard& box : model.parameters().find(name)->boxes())
            text += fmt::format("{}+{} ", box.offset.text(), box.local_shape.text());
        return text;
    };
    EXPECT_EQ(boxes("blocks.1.attention.qkv.weight"),
              "[8, 0]+[8, 24] [36, 0]+[4, 24] [52, 0]+[4, 24] ");
    EXPECT_EQ(boxes("blocks.0.attention.output.weight"), "[0, 8]+[24, 8] ");
    EXPECT_EQ(boxes("blocks.0.mlp.gate_up.weight"), "[10, 0]+[10, 24] [50, 0]+[10, 24] ");
    EXPECT_EQ(boxes("blocks.0.mlp.down.weight"), "[0, 10]+[24, 10] ");
    // Rows up to a multiple of 8 are memory, and part of no box.
    EXPECT_EQ(boxes("embedding.tokens.weight"), "[6, 0]+[5, 24] ");
    EXPECT_EQ(boxes("head.weight"), "[6, 0]+[5, 24] ");
    for (const char* name : {"embedding.tokens.weight", "head.weight"}) {
        EXPECT_EQ(model.parameters().find(name)->padded_shape(), (Shape{8, 24})) << name;
        EXPECT_EQ(model.parameters().find(name)->room(), 8 * 24) << name;
    }
    EXPECT_EQ(boxes("final_norm.weight"), "[0]+[24] ");
    EXPECT_TRUE(model.parameters().find("final_norm.weight")->gradient_is_partial());
    EXPECT_FALSE(model.parameters().find("head.weight")->gradient_is_partial());
}

TEST(PlannedLayout, EveryElementIsHeldByOneRankOrByAll) {
    for (const TransformerConfig& config : {gpt(), llama(), bloom()})
        for (const int ranks : {1, 2, 4}) {
            std::map<std::string, int64_t> held, elements;
            for (int rank = 0; rank < ranks; ++rank) {
                const Transformer model(
                    config,
                    parallel::PlannedLayout(core::models::transformer_plan(config), rank, ranks));
                for (const core::Parameter* parameter :
                     const_cast<Transformer&>(model).parameters().all()) {
                    held[parameter->name()] += parameter->local_elements();
                    elements[parameter->name()] =
                        parameter->shape().elements() * (parameter->is_whole() ? ranks : 1);
                    EXPECT_EQ(parameter->gradient_is_partial(), ranks > 1 && parameter->is_whole())
                        << parameter->name();
                }
            }
            EXPECT_EQ(held, elements);
        }
}

/// A sum over the group of what a rank owns of a norm or a bias needs that.
TEST(PlannedLayout, WhatAllHoldLiesInTheSamePlacesOfEachRanksBuckets) {
    using parallel::BucketLayout;
    TransformerConfig tied = gpt();
    tied.vocab_size = 257;  // parts of 129 and 128 rows of 24 elements: 4 blocks and 3
    TransformerConfig untied = tied;
    untied.tied_head = false;
    for (const TransformerConfig& config : {tied, untied})
        for (const int64_t bucket_bytes : {4096, 16384}) {
            std::vector<std::vector<BucketLayout::Piece>> pieces;
            std::vector<int64_t> blocks;
            for (int rank = 0; rank < 2; ++rank) {
                Transformer model(config, parallel::PlannedLayout(
                                              core::models::transformer_plan(config), rank, 2));
                const auto parameters = model.parameters().all();
                const BucketLayout layout(parameters, bucket_bytes);
                std::vector<BucketLayout::Piece>& own = pieces.emplace_back();
                for (core::Parameter* parameter : parameters)
                    for (int owner = 0; owner < 3 && parameter->is_whole(); ++owner)
                        for (const auto& piece : layout.owned(*parameter, 0, owner, 3))
                            own.push_back(piece);
                for (size_t b = 0; b < layout.buckets(); ++b)
                    EXPECT_FALSE(layout.label(b).empty()) << b;
                const core::Parameter& table = *model.parameters().find("embedding.tokens.weight");
                blocks.push_back((table.local_elements() + 1023) / 1024);
            }
            EXPECT_NE(blocks[0], blocks[1]) << "else the places would be the same anyway";
            ASSERT_EQ(pieces[0].size(), pieces[1].size());
            for (size_t i = 0; i < pieces[0].size(); ++i) {
                EXPECT_EQ(pieces[0][i].flat, pieces[1][i].flat) << i;
                EXPECT_EQ(pieces[0][i].range.begin, pieces[1][i].range.begin) << i;
                EXPECT_EQ(pieces[0][i].bucket, pieces[1][i].bucket) << i;
            }
        }
}

TEST(PlannedLayout, SharesRowsAsEvenlyAsWholeRowsCanBe) {
    for (const int64_t extent : {4, 5, 7, 257})
        for (const int size : {1, 2, 3, 4}) {
            int64_t at = 0;
            for (int rank = 0; rank < size; ++rank) {
                const parallel::RowShare share = parallel::row_share(extent, rank, size);
                EXPECT_EQ(share.begin, at);
                EXPECT_EQ(share.count, extent / size + (rank < extent % size ? 1 : 0));
                at += share.count;
            }
            EXPECT_EQ(at, extent);
        }
}

TEST(PlannedLayout, AModuleWithoutARowIsNamed) {
    const parallel::PlannedLayout layout({{"known", Placement::column}}, 0, 2);
    core::nn::ParameterSet set;
    expect_error(
        ErrorKind::internal,
        [&] {
            (Declaration(set, layout) / "unknown").weight({4, 4}, core::Init::zeros());
        },
        "unknown", "no row");
    expect_error(
        ErrorKind::internal,
        [&] {
            (Declaration(set, layout) / "known").weight({5, 4}, core::Init::zeros());
        },
        "known.weight", "5");
}

}  // namespace
}  // namespace plinth::test
