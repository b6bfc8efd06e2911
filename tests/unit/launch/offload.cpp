// SPDX-License-Identifier: Apache-2.0
// optimizer.offload=states: the same bits of losses, norms, weights and moments in every layout,
// checkpoints from one to the other, and mutants. The copies are those of the CPU here;
// tests/unit/parallel/offload.cpp has memory that the host cannot touch. The same for
// train.offload_activations, beside tests/unit/parallel/activation_store.cpp.
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"
#include "tests/unit/launch/layouts.h"

namespace plinth::launch::test {
namespace {

using plinth::test::expect_error;

const Layout layouts[] = {
    alone,
    data_2,
    zero_1,
    zero_2,
    zero_3,
    pipeline_2,
    pipeline_zero_1,
    {"tensor, zero 1", 4, {"parallel.tensor=2", "parallel.data=2", "parallel.zero=1"}},
    {"context, zero 2", 4, {"parallel.context=2", "parallel.data=2", "parallel.zero=2"}},
};

RunConfig config_of(const Layout& layout, bool offloads, const Words& more = {}) {
    Words words{"train.global_batch=6", "train.lanes=6", "data.sequence_length=32"};
    words.insert(words.end(), layout.words.begin(), layout.words.end());
    words.insert(words.end(), more.begin(), more.end());
    words.emplace_back(offloads ? "optimizer.offload=states" : "optimizer.offload=none");
    return tiny_config("gpt/tiny.yaml", words);
}

TEST(OffloadEquality, FiftyStepsHaveTheSameBits) {
    for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"})
        for (const Layout& layout : {alone, zero_1}) {
            const RunOptions options{.ranks = layout.ranks, .steps = 50};
            const EngineRun off = run_engine(config_of(layout, false, {dtype}), options);
            const EngineRun on = run_engine(config_of(layout, true, {dtype}), options);
            EXPECT_GT(off.norms[0], 0.5) << "clipping is not tested";
            EXPECT_NE(off.losses[0], off.losses[49]);
            EXPECT_EQ(difference(off, on), "") << layout.name << ", " << dtype;
        }
}

TEST(OffloadEquality, EveryLayoutHasTheSameBits) {
    for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"})
        for (const Layout& layout : layouts) {
            const RunOptions options{.ranks = layout.ranks, .steps = 4};
            const EngineRun off = run_engine(config_of(layout, false, {dtype}), options);
            const EngineRun on = run_engine(config_of(layout, true, {dtype}), options);
            EXPECT_EQ(difference(off, on), "") << layout.name << ", " << dtype;
            EXPECT_EQ(on.holders, off.holders) << layout.name;
        }
}

TEST(OffloadEquality, WeightsInEightBitsFollowOffloadedMasters) {
    for (const char* scaling : {"train.fp8=current", "train.fp8=delayed"})
        for (const size_t l : {0u, 2u, 4u, 5u}) {
            const Words words{"train.dtype=bf16", scaling};
            const RunOptions options{.ranks = layouts[l].ranks, .steps = 4};
            const EngineRun off = run_engine(config_of(layouts[l], false, words), options);
            const EngineRun on = run_engine(config_of(layouts[l], true, words), options);
            EXPECT_EQ(difference(off, on), "") << layouts[l].name << ", " << scaling;
        }
}

const Words inputs_too{"train.recompute=full", "train.offload_activations=true"};

RunConfig with_inputs(const Layout& layout, bool offloads_states, const Words& more) {
    Words words = inputs_too;
    words.insert(words.end(), more.begin(), more.end());
    return config_of(layout, offloads_states, words);
}

TEST(OffloadEquality, ActivationsComeBackWithTheirBits) {
    const Layout interleaved{
        "interleaved",
        2,
        {"parallel.pipeline=2", "parallel.schedule=interleaved", "parallel.virtual_stages=2"}};
    for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
        const Words words{dtype, "model.layers=4"};
        const EngineRun straight = run_engine(config_of(alone, false, words), {.steps = 4});
        std::vector<Layout> all(std::begin(layouts), std::end(layouts));
        all.push_back(interleaved);
        for (const Layout& layout : all) {
            const RunOptions options{.ranks = layout.ranks, .steps = 4};
            const bool is_rounded =
                layout.name.starts_with("tensor") || layout.name.starts_with("context");
            const EngineRun off =
                is_rounded ? run_engine(config_of(layout, false, words), options) : straight;
            const bool states = layout.ranks > 2;
            EXPECT_EQ(difference(off, run_engine(with_inputs(layout, states, words), options)), "")
                << layout.name << ", " << dtype;
        }
        Words other = words;
        other.emplace_back("optimizer.clip=0.4");
        EXPECT_NE(difference(straight, run_engine(with_inputs(alone, false, other), {.steps = 4})),
                  "")
            << "a mutant";
    }
}

TEST(OffloadEquality, ActivationsOfEightBitProducts) {
    for (const size_t l : {0u, 5u}) {
        const Words words{"train.dtype=bf16", "train.fp8=delayed", "train.recompute=full"};
        const RunOptions options{.ranks = layouts[l].ranks, .steps = 4};
        EXPECT_EQ(difference(run_engine(config_of(layouts[l], false, words), options),
                             run_engine(with_inputs(layouts[l], false, words), options)),
                  "")
            << layouts[l].name;
    }
}

TEST(OffloadEquality, ARunWithOffloadedActivationsGoesOnInAnyLayout) {
    const Words words{"train.dtype=bf16", "model.layers=4"};
    const EngineRun straight = run_engine(config_of(alone, false, words), {.steps = 6});
    const std::vector<std::pair<Layout, Layout>> ways{
        {alone, pipeline_2}, {pipeline_2, alone}, {pipeline_2, pipeline_zero_1}};
    for (const auto& [writer, reader] : ways) {
        plinth::test::MemoryFiles files;
        const EngineRun saved =
            run_engine(with_inputs(writer, false, words),
                       {.ranks = writer.ranks, .steps = 2, .after_step = [&](EngineRank& rank) {
                            if (rank.step.step == 2) save(rank, files);
                        }});
        EngineRun on = run_engine(with_inputs(reader, true, words),
                                  {.ranks = reader.ranks, .steps = 4, .begin = [&](auto& rank) {
                                       restore(rank, files);
                                   }});
        on.losses.insert(on.losses.begin(), saved.losses.begin(), saved.losses.end());
        on.norms.insert(on.norms.begin(), saved.norms.begin(), saved.norms.end());
        EXPECT_EQ(difference(straight, on), "") << writer.name << " to " << reader.name;
    }
}

TEST(OffloadEquality, CheckpointsGoFromOneToTheOther) {
    for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
        const EngineRun straight = run_engine(config_of(alone, false, {dtype}), {.steps = 6});
        const auto expect_same = [&](const Layout& writer, bool from, const Layout& reader,
                                     bool to) {
            plinth::test::MemoryFiles files;
            const EngineRun saved =
                run_engine(config_of(writer, from, {dtype}),
                           {.ranks = writer.ranks, .steps = 2, .after_step = [&](EngineRank& rank) {
                                if (rank.step.step == 2) save(rank, files);
                            }});
            EngineRun on =
                run_engine(config_of(reader, to, {dtype}),
                           {.ranks = reader.ranks, .steps = 4, .begin = [&](EngineRank& rank) {
                                restore(rank, files);
                            }});
            on.losses.insert(on.losses.begin(), saved.losses.begin(), saved.losses.end());
            on.norms.insert(on.norms.begin(), saved.norms.begin(), saved.norms.end());
            EXPECT_EQ(difference(straight, on), "")
                << dtype << ": " << writer.name << (from ? " with" : " without") << " to "
                << reader.name << (to ? " with" : " without");
        };
        for (const bool from : {false, true})
            for (const bool to : {false, true})
                if (from || to) {
                    expect_same(alone, from, alone, to);
                    expect_same(zero_3, from, zero_1, to);
                    expect_same(zero_1, from, alone, to);
                    expect_same(alone, from, pipeline_zero_1, to);
                }
    }
}

TEST(OffloadEquality, AStepThatIsNotFiniteChangesNothing) {
    for (const Layout& layout : {alone, zero_2}) {
        std::mutex mutex;
        EngineRun before, after;
        run_engine(config_of(layout, true),
                   {.ranks = layout.ranks, .steps = 2, .after_step = [&](EngineRank& rank) {
                        if (rank.step.step != 1) return;
                        const int64_t updates = rank.engine.update_count();
                        const std::lock_guard lock(mutex);
                        collect(rank, before);
                        rank.engine.update({.gradient_norm = std::nan("")}, 1e-2);
                        rank.engine.update({.loss = std::numeric_limits<double>::infinity()}, 1e-2);
                        collect(rank, after);
                        CHECK(rank.engine.update_count() == updates, "a skipped step counts");
                    }});
        EXPECT_FALSE(before.state.empty());
        EXPECT_EQ(difference(before, after), "") << layout.name;
    }
}

TEST(OffloadTest, MoreThanTheMachineHasIsRefusedBeforeAnythingIsTaken) {
    // 12 bytes of 10^12 parameters.
    const RunConfig config =
        tiny_config("gpt/tiny.yaml", {"model.width=65536", "model.layers=20",
                                      "parallel.bucket_bytes=1GiB", "optimizer.offload=states"});
    expect_error(
        ErrorKind::io,
        [&] {
            parallel::run_as_threads(1,
                                     [&](Communicator& world) { EngineRank rank(config, world); });
        },
        "optimizer.offload=states: rank 0 on ", " bytes of host memory, and ", " are free there");
}

// --- mutants ------------------------------------------------------------------------------------

const core::StateTensor& piece_of(const std::vector<core::StateTensor>& state, const char* prefix) {
    const auto found = std::ranges::find_if(
        state, [&](const auto& tensor) { return tensor.name.starts_with(prefix); });
    CHECK(found != state.end(), "no state {}", prefix);
    return *found;
}

TEST(OffloadMutants, StaleMomentsAndMastersAreSeen) {
    for (const Layout& layout : {alone, zero_1}) {
        const EngineRun sound =
            run_engine(config_of(layout, true), {.ranks = layout.ranks, .steps = 3});
        for (const char* stale : {"optimizer.m.", "optimizer.v.", "model."}) {
            std::vector<std::vector<float>> kept(static_cast<size_t>(layout.ranks));
            const auto mutate = [&](EngineRank& rank) {
                const auto state = rank.engine.state();
                const core::StateTensor& piece = piece_of(state, stale);
                auto* values = static_cast<float*>(piece.data);
                auto& mine = kept[static_cast<size_t>(rank.session.world().rank())];
                if (rank.step.step == 1) mine.assign(values, values + piece.shard.elements());
                if (rank.step.step == 2) std::copy(mine.begin(), mine.end(), values);
            };
            const EngineRun run = run_engine(
                config_of(layout, true), {.ranks = layout.ranks, .steps = 3, .after_step = mutate});
            EXPECT_NE(difference(sound, run), "") << layout.name << ", " << stale;
        }
    }
}

TEST(OffloadMutants, AReplicaWithOtherMastersOrOtherCopiesOfThemIsNamed) {
    for (const bool is_copy : {false, true})
        expect_error(
            ErrorKind::ranks,
            [&] {
                run_engine(config_of(data_2, true, {"train.dtype=bf16"}),
                           {.ranks = 2, .steps = 1, .after_step = [&](EngineRank& rank) {
                                if (rank.session.world().rank() == 0) return;
                                core::Parameter& parameter =
                                    *rank.model->parameters().find("final_norm.weight");
                                if (is_copy) {
                                    const core::Tensor& copy = parameter.acquire(DType::f32);
                                    *static_cast<float*>(const_cast<void*>(copy.in().data)) = 7;
                                    return parameter.release();
                                }
                                for (const auto& tensor : rank.engine.state())
                                    if (tensor.name == "model.final_norm.weight")
                                        *static_cast<float*>(tensor.data) = 7;
                            }});
            },
            is_copy ? "final_norm.weight as read is not the same" : "final_norm.weight is not");
}

}  // namespace
}  // namespace plinth::launch::test
