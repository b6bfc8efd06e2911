// SPDX-License-Identifier: Apache-2.0
#include "launch/verify.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace plinth::test {
namespace {

using namespace plinth::launch;

/// Two blocks, several buckets, dropout and clipping on.
RunConfig tiny() {
    RunConfig config;
    config.model.vocab_size = 40;
    config.model.layers = 2;
    config.model.width = 16;
    config.model.heads = 2;
    config.model.max_positions = 12;
    config.model.dropout = 0.1;
    config.data.sequence_length = 12;
    config.train.steps = 6;
    config.train.global_batch = 12;
    config.train.micro_batch = 2;
    config.train.lanes = 5;
    config.optimizer.clip = 0.5;
    config.parallel.bucket_bytes = 4096;
    resolve(config);
    return config;
}

Layout over(const RunConfig& config, int64_t data) {
    RunConfig spread = config;
    spread.parallel.data = data;
    return layout_of(spread, static_cast<int>(data));
}

TEST(Layouts, FillTheWorldsAndNameWhatIsRefused) {
    const Layouts layouts = all_layouts(tiny(), {1, 2, 7});
    std::vector<std::string> valid, refused;
    for (const Layout& layout : layouts.valid)
        valid.push_back(layout.name);
    for (const RefusedLayout& layout : layouts.refused)
        refused.push_back(layout.name);
    EXPECT_EQ(std::ranges::count(valid, "one rank"), 1);
    EXPECT_EQ(std::ranges::count(valid, "data=2"), 1);
    EXPECT_EQ(std::ranges::count(valid, "pipeline=2 zero_bubble"), 1);
    EXPECT_EQ(std::ranges::count(refused, "pipeline=2 interleaved virtual_stages=2"), 1)
        << "more chunks than layers";
    EXPECT_EQ(std::ranges::count(refused, "data=7"), 1) << "more ranks than lanes";
    for (const RefusedLayout& layout : layouts.refused)
        EXPECT_NE(layout.reason.find(": "), std::string::npos) << layout.reason;
}

TEST(Layouts, InterleaveAsManyChunksAsThereAreLayersFor) {
    RunConfig config = tiny();
    config.model.layers = 8;
    std::vector<std::string> interleaved;
    for (const Layout& layout : all_layouts(config, {2, 4}).valid)
        if (layout.config.parallel.virtual_stages > 1 && layout.config.parallel.data == 1 &&
            layout.config.parallel.tensor == 1 && layout.config.parallel.context == 1)
            interleaved.push_back(layout.name);
    EXPECT_EQ(interleaved, (std::vector<std::string>{"pipeline=2 interleaved virtual_stages=2",
                                                     "pipeline=2 interleaved virtual_stages=3",
                                                     "pipeline=2 interleaved virtual_stages=4",
                                                     "pipeline=4 interleaved virtual_stages=2"}));
}

TEST(Layouts, CountWhatIsTriedOnEachAxis) {
    const auto counts = [](const RunConfig& config, const std::vector<int64_t>& worlds) {
        std::vector<std::string> texts;
        for (const AxisCount& axis : count_axes(all_layouts(config, worlds)))
            texts.push_back(fmt::format("{} {}-{}", axis.name, axis.valid, axis.refused));
        return texts;
    };
    RunConfig config = tiny();
    config.data.sequence_length = config.model.max_positions = 16;
    using Texts = std::vector<std::string>;
    EXPECT_EQ(counts(config, {1}),
              (Texts{"data 0-0", "tensor 0-0", "pipeline 0-0", "context 0-0", "zero 0-0"}));
    // Four stages of data; tensor; three schedules and one with too many chunks; context.
    EXPECT_EQ(counts(config, {2}),
              (Texts{"data 4-0", "tensor 1-0", "pipeline 3-1", "context 1-0", "zero 3-0"}));
    config.model.heads = config.model.kv_heads = 1;
    config.data.sequence_length = 15;
    EXPECT_EQ(counts(config, {2}),
              (Texts{"data 4-0", "tensor 0-1", "pipeline 3-1", "context 0-1", "zero 3-0"}));
    const std::vector<AxisCount> axes = count_axes(all_layouts(config, {2}));
    EXPECT_EQ(axes[0].reason, "");
    EXPECT_NE(axes[1].reason.find("parallel.tensor: 2 ranks cannot divide model.heads 1: "),
              std::string::npos)
        << axes[1].reason;
    EXPECT_NE(axes[3].reason.find("data.sequence_length: parallel.context=2 x parallel.tensor=1 "),
              std::string::npos)
        << axes[3].reason;
}

TEST(Verify, DataParallelLayoutsHaveEqualBits) {
    const RunConfig config = tiny();
    const LayoutRecord one = train_layout(over(config, 1), 6);
    ASSERT_EQ(one.losses.size(), 6u);
    EXPECT_NE(one.losses.front(), one.losses.back());
    for (const int64_t data : {2, 3, 5}) {
        const LayoutVerdict verdict = compare_bits(train_layout(over(config, data), 6), one);
        EXPECT_TRUE(verdict.agrees) << data << ": " << verdict.text;
    }
}

TEST(Verify, CatchesAScaledLossAndNamesTheTensor) {
    const RunConfig config = tiny();
    const LayoutRecord one = train_layout(over(config, 1), 2);
    const auto scaled = [&](int only_rank) {
        return train_layout(over(config, 2), 2,
                            {.after_gradients = [only_rank](int rank, Engine& engine) {
                                if (rank != only_rank && only_rank >= 0) return;
                                for (const core::StateTensor& piece : engine.gradients())
                                    for (int64_t i = 0; i < piece.shard.elements(); ++i)
                                        static_cast<float*>(piece.data)[i] *= 1.001f;
                            }});
    };
    const LayoutVerdict on_all = compare_bits(scaled(-1), one);
    EXPECT_FALSE(on_all.agrees);
    EXPECT_NE(on_all.text.find("loss of step 2"), std::string::npos) << on_all.text;
    EXPECT_FALSE(compare_within(scaled(-1), one, 1e-4).agrees);
    const LayoutVerdict on_one = compare_bits(scaled(1), one);
    EXPECT_FALSE(on_one.agrees);
    EXPECT_NE(on_one.text.find("two ranks hold"), std::string::npos) << on_one.text;
}

TEST(Verify, AForgottenPieceIsNamed) {
    LayoutRecord one = train_layout(over(tiny(), 1), 1), other = one;
    other.state.erase(other.state.begin());
    const std::string name = one.state.begin()->first;
    EXPECT_EQ(compare_bits(other, one).text, name + " is missing");
    other = one;
    other.state.begin()->second.values[3] = -1.0f;
    EXPECT_NE(compare_bits(other, one).text.find(name + " differs first in element 3"),
              std::string::npos);
    EXPECT_TRUE(compare_bits(one, one).agrees);
}

}  // namespace
}  // namespace plinth::test
