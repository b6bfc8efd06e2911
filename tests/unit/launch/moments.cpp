// SPDX-License-Identifier: Apache-2.0
// optimizer.moments=bf16: equal bits in every layout and beside offloaded states, checkpoints from
// any layout to any other and to moments of the other type, and what rounding does to a training.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "launch/layout_compare.h"
#include "launch/training_state.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"
#include "tests/unit/launch/layouts.h"

namespace plinth::launch::test {
namespace {

const Layout tensor_2{"tensor", 2, {"parallel.tensor=2"}},
    offload_zero_1{"offload, zero 1", 2, {"parallel.zero=1", "optimizer.offload=states"}};
const Layout layouts[] = {
    data_2,        data_3,     zero_1,          zero_2,
    zero_3,        pipeline_2, pipeline_zero_1, {"offload", 1, {"optimizer.offload=states"}},
    offload_zero_1};

RunConfig config_of(const Layout& layout, const Words& more = {}) {
    Words words{"train.global_batch=6", "train.lanes=6", "data.sequence_length=16",
                "optimizer.moments=bf16", "optimizer.beta2=0.999"};
    words.insert(words.end(), layout.words.begin(), layout.words.end());
    words.insert(words.end(), more.begin(), more.end());
    return tiny_config("gpt/tiny.yaml", words);
}

EngineRun trained(const Layout& layout, const Words& more = {}, int steps = 4) {
    return run_engine(config_of(layout, more), {.ranks = layout.ranks, .steps = steps});
}

TEST(RoundedMoments, EveryLayoutHasTheSameBits) {
    for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
        const EngineRun one = trained(alone, {dtype});
        for (const Layout& layout : layouts)
            EXPECT_EQ(difference(one, trained(layout, {dtype})), "")
                << layout.name << ", " << dtype;
        EXPECT_NE(difference(one, trained(alone, {dtype, "optimizer.moments=fp32"})), "");
        EXPECT_NE(difference(one, trained(alone, {dtype, "train.seed=4321"})), "")
            << "the mutant: numbers of another seed";
    }
}

TEST(RoundedMoments, DataRanksBesideTensorRanksChangeNoBit) {
    const EngineRun one = trained(tensor_2);
    for (const char* zero : {"parallel.zero=0", "parallel.zero=1", "parallel.zero=3"})
        EXPECT_EQ(
            difference(one, trained({"", 4, {"parallel.tensor=2", "parallel.data=2"}}, {zero})), "")
            << zero;
}

/// A bit of one moment of one rank, after the second step.
TEST(RoundedMoments, AMomentRoundedTheOtherWayOnOneRankIsSeen) {
    const Layout& layout = zero_1;
    const EngineRun sound = trained(layout);
    for (const char* moment : {"optimizer.m.", "optimizer.v."}) {
        const auto mutate = [&](EngineRank& rank) {
            if (rank.step.step != 2 || rank.session.world().rank() != 1) return;
            for (const core::StateTensor& piece : rank.engine.state()) {
                if (!piece.name.starts_with(moment)) continue;
                static_cast<BFloat16*>(piece.data)->bits ^= 1;
                return;
            }
        };
        const EngineRun run = run_engine(config_of(layout),
                                         {.ranks = layout.ranks, .steps = 4, .after_step = mutate});
        EXPECT_NE(difference(sound, run), "") << moment;
    }
}

// --- checkpoints --------------------------------------------------------------------------------

/// Two steps on `writer`, whose state is saved.
EngineRun saved_run(const Layout& writer, core::io::FileSystem& files, const Words& more = {}) {
    return run_engine(config_of(writer, more),
                      {.ranks = writer.ranks, .steps = 2, .after_step = [&](EngineRank& rank) {
                           if (rank.step.step == 2) save(rank, files);
                       }});
}

EngineRun resumed_run(const Layout& reader, core::io::FileSystem& files, int steps,
                      const Words& more = {}) {
    return run_engine(config_of(reader, more),
                      {.ranks = reader.ranks, .steps = steps, .begin = [&](EngineRank& rank) {
                           restore(rank, files, {.may_convert = is_moment});
                       }});
}

TEST(RoundedMoments, AnyLayoutGoesOnWithTheCheckpointOfAnyOther) {
    const EngineRun straight = trained(alone, {}, 5);
    const std::pair<const Layout*, const Layout*> pairs[] = {{&alone, &zero_3},
                                                             {&zero_3, &pipeline_zero_1},
                                                             {&pipeline_zero_1, &offload_zero_1},
                                                             {&offload_zero_1, &zero_1},
                                                             {&zero_1, &alone},
                                                             {&pipeline_2, &data_3}};
    for (const auto& [writer, reader] : pairs) {
        plinth::test::MemoryFiles files;
        const EngineRun before = saved_run(*writer, files);
        EngineRun on = resumed_run(*reader, files, 3);
        on.losses.insert(on.losses.begin(), before.losses.begin(), before.losses.end());
        on.norms.insert(on.norms.begin(), before.norms.begin(), before.norms.end());
        EXPECT_EQ(difference(straight, on), "") << writer->name << " to " << reader->name;
    }
    // The mutant: moments from which a bit was lost.
    plinth::test::MemoryFiles files;
    saved_run(alone, files);
    const EngineRun other =
        run_engine(config_of(alone), {.steps = 3, .begin = [&](EngineRank& rank) {
                                          restore(rank, files);
                                          for (const auto& piece : rank.engine.state())
                                              if (piece.name == "optimizer.v.final_norm.bias")
                                                  static_cast<BFloat16*>(piece.data)->bits ^= 1;
                                      }});
    EXPECT_NE(straight.state, other.state);
}

TEST(RoundedMoments, ACheckpointOfTheOtherTypeIsConverted) {
    const Words wide{"optimizer.moments=fp32"};
    const auto to_nearest = [](EngineRun run) {
        for (auto& [name, values] : run.state)
            for (float& value : values)
                if (is_moment(name)) value = static_cast<float>(BFloat16(value));
        return run;
    };
    for (const Layout* writer : {&alone, &zero_1, &tensor_2})
        for (const Layout* reader :
             {&alone, &zero_3, &pipeline_zero_1, &offload_zero_1, &tensor_2}) {
            const std::string what = writer->name + " to " + reader->name;
            plinth::test::MemoryFiles from_wide, from_rounded;
            const EngineRun was_wide = saved_run(*writer, from_wide, wide),
                            was_rounded = saved_run(*writer, from_rounded);
            EXPECT_EQ(resumed_run(*reader, from_wide, 0).state, to_nearest(was_wide).state) << what;
            EXPECT_EQ(resumed_run(*reader, from_rounded, 0, wide).state, was_rounded.state) << what;
            EXPECT_NE(to_nearest(was_wide).state, was_wide.state) << "nothing to round";
        }
    // What goes on from there is one run, whatever its layout.
    plinth::test::MemoryFiles files;
    saved_run(alone, files, wide);
    EXPECT_EQ(difference(resumed_run(alone, files, 3), resumed_run(zero_3, files, 3)), "");
}

// --- a training ---------------------------------------------------------------------------------

// To the nearest, a second moment stands still when a step changes it by less than 2^-9 to 2^-8 of
// itself: with beta2 = 0.999 from step 250 to 500 on.
constexpr int64_t curve_steps = 1000;

/// Sentences in which each token has three successors, of equal chance.
core::Batch sentences(EngineRank& rank, int64_t slot) {
    const int64_t rows = rank.config.train.micro_batch, length = rank.config.data.sequence_length;
    std::vector<int32_t> tokens, targets, positions;
    std::vector<int64_t> samples;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t sample = rank.step.step * rank.config.train.global_batch + slot * rows + row;
        const RandomKey key(11, "sentences", static_cast<uint64_t>(sample));
        samples.push_back(sample);
        auto token = static_cast<int32_t>(key.words(0)[0] % 64);
        for (int64_t t = 0; t < length; ++t) {
            const auto choice =
                static_cast<int32_t>(key.words(1 + static_cast<uint64_t>(t))[0] % 3);
            tokens.push_back(token);
            token = (13 * token + 5 + 7 * choice) % 64;
            targets.push_back(token);
            positions.push_back(static_cast<int32_t>(t));
        }
    }
    const Shape shape{rows, length};
    CachingAllocator& allocator = rank.session.allocator();
    return {.tokens = core::Tensor::of(tokens, shape, allocator),
            .targets = core::Tensor::of(targets, shape, allocator),
            .positions = core::Tensor::of(positions, shape, allocator),
            .document_ids = {},
            .sample_ids = core::Tensor::of(samples, {rows}, allocator)};
}

struct Curve {
    std::vector<double> losses;
    double squares = 0.0;  ///< sum of all second moments at the end
};

/// A training; `after_update` may change the state.
Curve curve(const Words& more, const std::function<void(EngineRank&)>& after_update = {}) {
    Words words{"model.dropout=0",      "model.layers=2",       "train.micro_batch=8",
                "train.global_batch=8", "train.lanes=1",        "data.sequence_length=16",
                "optimizer.clip=0",     "optimizer.beta2=0.999"};
    words.insert(words.end(), more.begin(), more.end());
    const RunConfig config = tiny_config("gpt/tiny.yaml", words);
    Curve found;
    parallel::run_as_threads(1, [&](Communicator& world) {
        EngineRank rank(config, world);
        rank.engine.initialize(rank.step.seed);
        while (rank.step.step < curve_steps) {
            parallel::StepScalars scalars(rank.plan().slots, world);
            rank.engine.run_micro_batches(
                rank.model->phases().front(), rank.plan(), rank.step,
                [&](int64_t slot) { return sentences(rank, slot); }, scalars);
            scalars.reduce(world);
            const StepMeans means = rank.engine.means(scalars);
            const double warm_up = static_cast<double>(rank.step.step + 1) / 20.0;
            rank.engine.update(means, 3e-3 * std::min(1.0, warm_up));
            if (after_update) after_update(rank);
            ++rank.step.step;
            found.losses.push_back(means.loss);
        }
        for (const core::StateTensor& piece : rank.engine.state())
            for (int64_t i = 0;
                 piece.name.starts_with("optimizer.v.") && i < piece.shard.elements(); ++i)
                found.squares += static_cast<double>(piece.value(i));
    });
    return found;
}

/// The largest distance between mean losses of tenths of the steps, as a share.
double distance(const std::vector<double>& found, const std::vector<double>& expected) {
    const auto tenth = static_cast<std::ptrdiff_t>(expected.size() / 10);
    double largest = 0.0;
    for (std::ptrdiff_t i = 0; i < 10; ++i) {
        const auto sum = [&](const std::vector<double>& of) {
            return std::accumulate(of.begin() + i * tenth, of.begin() + (i + 1) * tenth, 0.0);
        };
        largest = std::max(largest, std::abs(sum(found) / sum(expected) - 1.0));
    }
    return largest;
}

/// The mutant: moments that are rounded to the nearest bf16 number.
void round_to_nearest(EngineRank& rank) {
    for (const core::StateTensor& piece : rank.engine.state()) {
        if (!is_moment(piece.name)) continue;
        auto* values = static_cast<float*>(piece.data);
        for (int64_t i = 0; i < piece.shard.elements(); ++i)
            values[i] = static_cast<float>(BFloat16(values[i]));
    }
}

TEST(RoundedMoments, ATrainingStaysBesideThatOfFp32Moments) {
    constexpr double allowed = 5e-4, allowed_of_squares = 0.02;
    const Curve wide = curve({}), rounded = curve({"optimizer.moments=bf16"}),
                nearest = curve({}, round_to_nearest);
    const auto of_squares = [&](const Curve& one) {
        return std::abs(one.squares / wide.squares - 1.0);
    };
    ASSERT_LT(wide.losses.back(), 0.3 * wide.losses.front()) << "it has learned too little";
    EXPECT_NE(wide.losses, rounded.losses) << "nothing is rounded";
    EXPECT_LT(distance(rounded.losses, wide.losses), allowed);
    EXPECT_LT(of_squares(rounded), allowed_of_squares);
    EXPECT_GT(distance(nearest.losses, wide.losses), allowed);
    EXPECT_GT(of_squares(nearest), allowed_of_squares);
    fmt::print(
        "fp32 {:.4f} to {:.4f}; bf16 within {:.3f} %, squares {:.2f} %; to the nearest {:.3f} "
        "%, squares {:.2f} %\n",
        wide.losses.front(), wide.losses.back(), 100 * distance(rounded.losses, wide.losses),
        100 * of_squares(rounded), 100 * distance(nearest.losses, wide.losses),
        100 * of_squares(nearest));
}

}  // namespace
}  // namespace plinth::launch::test
