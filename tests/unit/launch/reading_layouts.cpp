// SPDX-License-Identifier: Apache-2.0
// `evaluate` and `generate` over ranks that share a model which any layout wrote.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/load.h"
#include "launch/evaluate.h"
#include "launch/finetune.h"
#include "launch/generate.h"
#include "launch/restored_classifier.h"
#include "parallel/comm/threads.h"
#include "tests/support/altered_group.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;
using core::data::TextPair;
using parallel::Axis;
using parallel::Communicator;

ParallelSection layout(int64_t data, int64_t tensor, int64_t pipeline) {
    ParallelSection parallel;
    parallel.data = data;
    parallel.tensor = tensor;
    parallel.pipeline = pipeline;
    return parallel;
}

int ranks_of(const ParallelSection& parallel) {
    return static_cast<int>(parallel.data * parallel.tensor * parallel.pipeline);
}

/// Four blocks, text of bytes, and logits far from each other.
RunConfig readable(RunConfig config) {
    config.model.layers = 4;
    config.model.vocab_size = 257;
    config.model.max_positions = 48;
    config.model.init_std = 0.2;
    return config;
}

using Texts = std::vector<std::vector<int32_t>>;
/// Stands in for a rank's world.
using Double = std::function<std::unique_ptr<Communicator>(Communicator&)>;
/// After the model was read.
using Hand = std::function<void(RestoredModel&)>;

class ReadingLayouts : public testing::Test {
  protected:
    /// A checkpoint of the model with its initial weights; `blobs` and a head over two classes for
    /// a classifier.
    std::string write(RunConfig config, const ParallelSection& parallel,
                      const std::map<std::string, std::string>& blobs = {}) {
        config.parallel = parallel;
        const std::string path = folder_ / fmt::format("written-{}", ++written_);
        parallel::run_as_threads(ranks_of(parallel), [&](Communicator& world) {
            Session session(world, 1);
            parallel::Groups groups(world, mesh_config(parallel));
            std::unique_ptr<core::models::Model> model;
            if (blobs.empty())
                model = language_model(config, groups);
            else
                model = classifier(config, 2, groups);
            Engine engine(config, session, groups, *model);
            engine.initialize(5);
            CheckpointKeeper keeper(
                {.folder = path}, session, engine.state(),
                {.configuration = to_yaml(config),
                 .blobs = blobs,
                 .tokenizer = core::data::load_tokenizer(session.files(), "byte")->serialize(),
                 .mesh = {}});
            TrainingState state;
            state.run_id = "00112233445566778899aabbccddeeff";
            keeper.finish(state);
        });
        return path;
    }

    /// `body` on every rank of the layout.
    static void read(const std::string& path, const ParallelSection& parallel,
                     const std::function<void(RestoredModel&, Session&)>& body,
                     const Double& stand_in = {}) {
        parallel::run_as_threads(ranks_of(parallel), [&](Communicator& sound) {
            const auto made = stand_in ? stand_in(sound) : nullptr;
            Session session(made ? *made : sound, 1);
            RestoredModel restored = RestoredModel::open(path, parallel, session);
            body(restored, session);
        });
    }

    /// The same on all ranks; in the order in which rank 0 would print them.
    static Texts texts(const std::string& path, const ParallelSection& parallel,
                       const core::inference::DecodeConfig& config, const Hand& hand = {},
                       const Double& stand_in = {}) {
        Texts all;
        std::mutex mutex;
        const auto body = [&](RestoredModel& restored, Session& session) {
            if (hand) hand(restored);
            const core::Scope scope(session.scope(DType::f32));
            Texts told(prompts_.size());
            size_t newest = 0;
            const Texts mine = continue_prompts(restored, prompts_, config, session,
                                                [&](size_t number, int32_t token) {
                                                    EXPECT_GE(number, newest) << "their order";
                                                    newest = number;
                                                    told[number].push_back(token);
                                                });
            const std::lock_guard lock(mutex);
            if (session.speaks()) {
                EXPECT_EQ(told, mine);
            }
            if (all.empty()) all = mine;
            EXPECT_EQ(mine, all) << "rank " << session.world().rank();
        };
        read(path, parallel, body, stand_in);
        return all;
    }

    static Score scored(const std::string& path, const ParallelSection& parallel,
                        const Hand& hand = {}, const Double& stand_in = {}) {
        std::vector<Score> scores;
        std::mutex mutex;
        const auto body = [&](RestoredModel& restored, Session& session) {
            if (hand) hand(restored);
            // 23 windows of 14 tokens, which two tensor ranks divide and three do not.
            std::vector<int32_t> tokens;
            for (int32_t i = 0; i < 101; ++i)
                tokens.push_back((i * i * 7 + i * 31) % 257);
            const TokenRow row{
                "row", std::make_shared<MemoryRow>("row", tokens, std::vector<int64_t>{0, 40}),
                101};
            Score score = launch::score(
                restored, row,
                {.length = 14, .stride = 4, .micro_batch = 3, .max_tokens = 0, .passes = 2},
                session);
            const std::lock_guard lock(mutex);
            scores.push_back(std::move(score));
        };
        read(path, parallel, body, stand_in);
        for (const Score& score : scores)
            EXPECT_EQ(to_json(score).dump(), to_json(scores.front()).dump());
        EXPECT_EQ(scores.front().tokens, 100);
        return scores.front();
    }

    static inline const Texts prompts_ = {{'t', 'h', 'e', ' ', 'm'}, {'a'}, {'x', 'y'}};
    TemporaryFolder folder_;
    int written_ = 0;
};

core::inference::DecodeConfig decoding(double temperature, bool cache) {
    return {.max_tokens = 12,
            .vocab_size = 257,
            .choice = {.temperature = temperature, .top_k = 40, .seed = 3},
            .use_cache = cache};
}

/// Copies x tensor ranks x stages.
const std::vector<ParallelSection> layouts = {layout(1, 1, 2), layout(1, 1, 4), layout(1, 2, 1),
                                              layout(1, 2, 2), layout(2, 1, 1), layout(3, 1, 1),
                                              layout(2, 2, 1), layout(2, 1, 2)};

std::string name_of(const ParallelSection& parallel) {
    return fmt::format("data {} x tensor {} x pipeline {}", parallel.data, parallel.tensor,
                       parallel.pipeline);
}

/// Rank 1 of a tensor group with the shards of rank 0: one that has read another's.
void take_shards_of_first(RestoredModel& restored) {
    for (core::Parameter* parameter : restored.model->parameters().all()) {
        // The rows of the token table are shared unevenly.
        if (parameter->is_whole() || !parameter->name().starts_with("blocks.")) continue;
        const View weights = parameter->master().out();
        restored.groups->along(Axis::tensor)
            .broadcast("shard", {static_cast<std::byte*>(weights.data), weights.bytes()}, 0);
        parameter->changed();
    }
}

/// What a stage gets from the one before is lost, as if that were not there.
std::unique_ptr<Communicator> without_stages_before(Communicator& sound) {
    return AlteredGroup::world(sound, dropping("activation"));
}

TEST_F(ReadingLayouts, GiveTheTextsOfOneRank) {
    for (const RunConfig& config : {readable(tiny_gpt()), readable(tiny_llama())}) {
        const std::string path = write(config, layout(1, 2, 2));
        for (const double temperature : {0.0, 0.9})
            for (const bool cache : {true, false}) {
                const auto how = decoding(temperature, cache);
                const Texts one = texts(path, layout(1, 1, 1), how);
                EXPECT_EQ(one.at(2).size(), 12u);
                for (const ParallelSection& parallel : layouts)
                    EXPECT_EQ(texts(path, parallel, how), one)
                        << name_of(parallel) << ", temperature " << temperature << ", cache "
                        << cache;
            }
        for (const double temperature : {0.0, 0.9})
            EXPECT_EQ(
                texts(write(config, layout(1, 1, 1)), layout(1, 2, 2), decoding(temperature, true)),
                texts(path, layout(1, 1, 1), decoding(temperature, true)))
                << "whatever layout wrote it";
    }
}

TEST_F(ReadingLayouts, TheMutantsOfTextsShow) {
    const std::string path = write(readable(tiny_gpt()), layout(1, 1, 1));
    const auto greedy = decoding(0.0, true), drawn = decoding(0.9, true);
    const Texts one = texts(path, layout(1, 1, 1), greedy);
    EXPECT_NE(texts(path, layout(1, 2, 1), greedy, take_shards_of_first), one);
    EXPECT_NE(texts(path, layout(1, 1, 2), greedy, {}, without_stages_before), one);
    // Copies that draw as if each had the first of the prompts.
    Texts apart;
    read(path, layout(1, 1, 1), [&](RestoredModel& restored, Session& session) {
        const core::Scope scope(session.scope(DType::f32));
        for (const auto& prompt : prompts_)
            apart.push_back(core::inference::decode(*restored.model, {prompt}, drawn).front());
    });
    EXPECT_NE(texts(path, layout(3, 1, 1), drawn), apart);
}

/// Logits of rank 1 of each tensor group in which the first id always wins.
std::unique_ptr<Communicator> odd_logits(Communicator& sound) {
    const auto alter = [rank = sound.rank()](const std::string& label,
                                             const std::vector<parallel::Bytes>& received) {
        if (rank == 0 || label != "head logits") return;
        for (const parallel::Bytes bytes : received)
            std::fill_n(reinterpret_cast<float*>(bytes.data()), 1, 1e6f);
    };
    return AlteredGroup::world(sound, alter);
}

TEST_F(ReadingLayouts, OfATensorGroupTheFirstRankChooses) {
    const std::string path = write(readable(tiny_gpt()), layout(1, 1, 1));
    for (const double temperature : {0.0, 0.9}) {
        const auto how = decoding(temperature, true);
        EXPECT_EQ(texts(path, layout(1, 2, 1), how, {}, odd_logits),
                  texts(path, layout(1, 1, 1), how));
    }
}

constexpr double rounding = 1e-6;

TEST_F(ReadingLayouts, GiveTheScoreOfOneRank) {
    for (RunConfig config :
         {readable(tiny_gpt()), readable(tiny_llama()), readable(tiny_bloom())}) {
        config.optimizer.z_loss = 0.1;  // of training: no part of a score
        const std::string path = write(config, layout(1, 2, 2));
        const Score one = scored(path, layout(1, 1, 1)), two = scored(path, layout(1, 2, 1));
        EXPECT_GT(one.loss(), 1.0);
        EXPECT_GT(one.bytes, 0);
        EXPECT_NEAR(two.loss() / one.loss(), 1.0, rounding);
        EXPECT_NE(two.loss_sum, one.loss_sum) << "else nothing was shared";
        for (const ParallelSection& parallel : layouts) {
            const Score score = scored(path, parallel);
            const Score& expected = parallel.tensor == 1 ? one : two;
            EXPECT_EQ(to_json(score).dump(), to_json(expected).dump()) << name_of(parallel);
            EXPECT_EQ(score.correct, one.correct) << name_of(parallel);
            EXPECT_EQ(score.bytes, one.bytes) << name_of(parallel);
        }
    }
}

TEST_F(ReadingLayouts, TheMutantsOfScoresShow) {
    const std::string path = write(readable(tiny_gpt()), layout(1, 1, 1));
    const double one = scored(path, layout(1, 1, 1)).loss();
    const double shards = scored(path, layout(1, 2, 1), take_shards_of_first).loss();
    EXPECT_GT(std::abs(shards / one - 1.0), 100 * rounding);
    EXPECT_NE(scored(path, layout(1, 1, 2), {}, without_stages_before).loss(), one);
}

TEST_F(ReadingLayouts, EachRankHoldsItsPartAlone) {
    RunConfig config = readable(tiny_gpt());
    config.model.width = 128;
    config.model.head_width = 16;
    config.model.ffn_width = 512;
    const std::string path = write(config, layout(1, 1, 1));
    const auto largest = [&](const ParallelSection& parallel) {
        std::mutex mutex;
        size_t most = 0;
        read(path, parallel, [&](RestoredModel&, Session& session) {
            const std::lock_guard lock(mutex);
            most = std::max(most, session.allocator().use().peak);
        });
        return static_cast<double>(most);
    };
    const double whole = largest(layout(1, 1, 1));
    EXPECT_LT(largest(layout(1, 2, 1)), 0.6 * whole);
    EXPECT_LT(largest(layout(1, 1, 2)), 0.65 * whole);
    EXPECT_LT(largest(layout(1, 2, 2)), 0.4 * whole);
}

TEST_F(ReadingLayouts, WhatCannotShareTheModelIsRefusedByKey) {
    const std::string path = write(readable(tiny_gpt()), layout(1, 1, 1));
    const auto refuse = [&](const ParallelSection& parallel, const std::string& what) {
        expect_error(
            ErrorKind::config,
            [&] {
                read(path, parallel, [](RestoredModel&, Session&) { ADD_FAILURE() << "was read"; });
            },
            what, path);
    };
    refuse(layout(1, 3, 1), "parallel.tensor: 3 ranks cannot divide model.heads 8");
    refuse(layout(1, 1, 5), "parallel.pipeline: 5 stages");
    EXPECT_EQ(validate_ranks(layout(0, 2, 2), 6)->key, "parallel.pipeline");
    EXPECT_EQ(validate_ranks(layout(3, 1, 1), 2)->key, "parallel.data");
    EXPECT_FALSE(validate_ranks(layout(0, 2, 2), 8));
    const std::vector<std::string> generate{"generate.checkpoint=c", "generate.prompts=[a]"};
    const std::vector<std::string> evaluate{"evaluate.checkpoint=c", "evaluate.data=[d]"};
    const auto refused = [&]<typename Config>(Config, std::vector<std::string> words,
                                              const std::string& word, const std::string& fix) {
        words.push_back(word);
        expect_error(
            ErrorKind::config, [&] { load<Config>(core::io::posix(), "", words); },
            word.substr(0, word.find('=')), fix);
    };
    for (const auto& [word, fix] :
         {std::pair("parallel.context=2", "set parallel.context=1"),
          std::pair("parallel.zero=3", "set parallel.zero=0"),
          std::pair("parallel.virtual_stages=2", "set parallel.virtual_stages=1")}) {
        refused(GenerateConfig{}, generate, word, fix);
        refused(EvaluateConfig{}, evaluate, word, fix);
    }
    auto labelled = evaluate;
    labelled.emplace_back("evaluate.format=classification");
    refused(EvaluateConfig{}, labelled, "parallel.pipeline=2", "set parallel.pipeline=1");
}

TEST_F(ReadingLayouts, AClassifierIsMeasuredByAnyNumberOfRanks) {
    RunConfig config = readable(tiny_gpt());
    config.data.document_mask = true;
    FinetuneSection stage;
    stage.mode = FinetuneMode::classification;
    stage.files = {"labelled.tsv"};
    stage.labels = {"no", "yes"};
    const std::string path = write(config, layout(1, 2, 1), {{finetune_blob, to_yaml(stage)}});
    std::vector<TextPair> pairs;
    for (int i = 0; i < 25; ++i)
        pairs.push_back({fmt::format("text {}", i * i), i % 3 == 0 ? "yes" : "no"});
    const auto counts = [&](const ParallelSection& parallel, bool takes_other_shards) {
        std::vector<int64_t> all;
        std::mutex mutex;
        parallel::run_as_threads(ranks_of(parallel), [&](Communicator& world) {
            Session session(world, 1);
            RestoredClassifier restored = RestoredClassifier::open(path, parallel, session);
            if (takes_other_shards)
                for (core::Parameter* parameter : restored.model->parameters().all())
                    if (!parameter->is_whole() && world.rank() == 1) {
                        std::ranges::fill(
                            std::span(parameter->master().data<float>(),
                                      static_cast<size_t>(parameter->local_elements())),
                            0.0f);
                        parameter->changed();
                    }
            Confusion confusion =
                classify(restored, pairs,
                         {.window = 16, .micro_batch = 4, .groups = *restored.groups}, session);
            const std::lock_guard lock(mutex);
            const std::vector<int64_t> mine(confusion.counts().begin(), confusion.counts().end());
            if (all.empty()) all = mine;
            EXPECT_EQ(mine, all);
        });
        return all;
    };
    const std::vector<int64_t> one = counts(layout(1, 1, 1), false);
    EXPECT_EQ(std::accumulate(one.begin(), one.end(), int64_t{0}), 25);
    for (const ParallelSection& parallel : {layout(1, 2, 1), layout(3, 1, 1), layout(2, 2, 1)})
        EXPECT_EQ(counts(parallel, false), one) << name_of(parallel);
    EXPECT_NE(counts(layout(1, 2, 1), true), one) << "the mutant: one without its shards";
}

}  // namespace
}  // namespace plinth::test
