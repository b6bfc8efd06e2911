// SPDX-License-Identifier: Apache-2.0
// Products that add to the gradients of the slots before them in a lane, against the way through
// scratch: finished apart, then added.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "launch/verify.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;

enum class Way {
    apart,        ///< of a sink that does not know products which add
    overwriting,  ///< a mutant: each product overwrites, also in later slots
    adding_twice  ///< a mutant: a later slot's product is added twice
};

/// Stands between the parameters of all ranks and what collects their gradients.
class OtherWay {
  public:
    explicit OtherWay(Way way) : way_(way) {}

    /// Must outlive the training.
    LayoutDoubles doubles() {
        return {.before_training = [this](int, core::models::Model& model) {
            for (core::Parameter* parameter : model.parameters().all()) {
                const std::lock_guard lock(mutex_);
                sinks_.push_back(std::make_unique<Sink>(*this, *parameter->sink()));
                parameter->set_sink(sinks_.back().get());
            }
        }};
    }
    /// Gradients that were added to what slots before had given.
    int added() const { return added_; }

  private:
    struct Sink final : core::GradientSink {
        Sink(OtherWay& of, core::GradientSink& to) : way(of), sound(to) {}
        void add(core::Parameter& parameter, int use,
                 FunctionRef<void(View dweight)> product) override {
            sound.add(parameter, use, product);
        }
        void accumulate(core::Parameter& parameter, int use,
                        FunctionRef<void(View sum, bool accumulates)> product) override {
            if (way.way_ == Way::apart) return GradientSink::accumulate(parameter, use, product);
            sound.accumulate(parameter, use, [&](View sum, bool accumulates) {
                if (accumulates) ++way.added_;
                product(sum, accumulates && way.way_ == Way::adding_twice);
                if (accumulates && way.way_ == Way::adding_twice) product(sum, true);
            });
        }
        OtherWay& way;
        core::GradientSink& sound;
    };

    Way way_;
    std::atomic<int> added_ = 0;
    std::mutex mutex_;
    std::vector<std::unique_ptr<core::GradientSink>> sinks_;
};

LayoutVerdict beside(const Layout& layout, Way way, int* added = nullptr) {
    OtherWay other(way);
    const LayoutRecord changed = train_layout(layout, 2, other.doubles());
    if (added) *added = other.added();
    return compare_bits(train_layout(layout, 2), changed);
}

/// One lane of several slots on each data rank, or two of which one has several.
RunConfig in_few_lanes(RunConfig config, int64_t lanes = 1) {
    config.train.global_batch = 6;
    config.train.lanes = lanes;
    return config;
}

Layout over(RunConfig config, int64_t data, int64_t tensor = 1, int64_t pipeline = 1,
            int64_t context = 1) {
    config.parallel.data = data;
    config.parallel.tensor = tensor;
    config.parallel.pipeline = pipeline;
    config.parallel.context = context;
    return layout_of(config, static_cast<int>(data * tensor * pipeline * context));
}

TEST(AccumulatedGradients, HaveTheBitsOfThoseThatAreFinishedApart) {
    for (const RunConfig& model : {tiny_gpt(), tiny_llama(), tiny_bloom()})
        for (const ComputeType dtype : {ComputeType::fp32, ComputeType::bf16})
            for (const int64_t lanes : {1, 2}) {
                RunConfig config = in_few_lanes(model, lanes);
                config.train.dtype = dtype;
                const LayoutVerdict verdict = beside(over(config, 1), Way::apart);
                EXPECT_TRUE(verdict.agrees) << verdict.text;
            }
}

TEST(AccumulatedGradients, HaveThoseBitsInEveryLayout) {
    RunConfig narrow = in_few_lanes(tiny_gpt(), 2), sharded = in_few_lanes(tiny_llama(), 2);
    narrow.parallel.wire_dtype = ComputeType::bf16;
    sharded.parallel.zero = 1;
    for (const Layout& layout :
         {over(narrow, 2), over(sharded, 2), over(in_few_lanes(tiny_gpt()), 1, 2),
          over(in_few_lanes(tiny_gpt()), 1, 1, 2), over(in_few_lanes(tiny_llama()), 1, 1, 1, 2)}) {
        const LayoutVerdict verdict = beside(layout, Way::apart);
        EXPECT_TRUE(verdict.agrees) << layout.name << ": " << verdict.text;
    }
}

TEST(AccumulatedGradients, OfEightBitProductsHaveThoseBits) {
    RunConfig config = in_few_lanes(tiny_llama());
    config.model.ffn_width = 64;
    config.train.dtype = ComputeType::bf16;
    config.train.fp8 = Fp8Scaling::current;
    const LayoutVerdict verdict = beside(over(config, 1), Way::apart);
    EXPECT_TRUE(verdict.agrees) << verdict.text;
}

// A head of several chunks is a sum itself, which is finished before it is added.
TEST(AccumulatedGradients, OfAHeadOfSeveralChunksHaveThoseBits) {
    RunConfig config = in_few_lanes(tiny_gpt());
    config.train.micro_batch = 72;
    config.train.global_batch = 3 * 72;
    ASSERT_GT(config.train.micro_batch * config.data.sequence_length, core::ops::logit_rows);
    const LayoutVerdict verdict = beside(over(config, 1), Way::apart);
    EXPECT_TRUE(verdict.agrees) << verdict.text;
}

TEST(AccumulatedGradients, MutantsThatOverwriteOrAddTwiceAreSeen) {
    for (const Way way : {Way::overwriting, Way::adding_twice}) {
        int added = 0;
        EXPECT_FALSE(beside(over(in_few_lanes(tiny_gpt()), 1), way, &added).agrees);
        // Two steps, three slots in one lane: both tables, four weights of two blocks, the head.
        EXPECT_EQ(added, 2 * 2 * (2 + 2 * 4 + 1));
    }
}

}  // namespace
}  // namespace plinth::test
