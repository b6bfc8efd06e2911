// SPDX-License-Identifier: Apache-2.0
#include "launch/config/load.h"

#include <gtest/gtest.h>

#include <map>

#include "launch/config/run_config.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

using core::io::posix;
using test::expect_error;

class LoadTest : public ::testing::Test {
  protected:
    std::string write(const std::string& name, const std::string& text) {
        const std::string path = folder / name;
        core::io::write_atomically(posix(), path, text);
        return path;
    }
    RunConfig load_run(const std::string& path, const std::vector<std::string>& words = {}) {
        return load<RunConfig>(posix(), path, words);
    }
    void refuse(const std::string& path, const std::vector<std::string>& words,
                const std::string& message) {
        expect_error(
            ErrorKind::config, [&] { load_run(path, words); }, message);
    }

    test::TemporaryFolder folder;
};

TEST_F(LoadTest, LaterOriginsWin) {
    posix().make_directories(folder / "base");
    write("base/a.yaml",
          "train: {steps: 1, micro_batch: 1, global_batch: 16}\nmodel: {layers: 3}\n");
    write("base/b.yaml", "include: a.yaml\ntrain: {steps: 2}\nmodel: {layers: 4}\n");
    const std::string path =
        write("run.yaml", "include: [base/b.yaml]\ntrain: {steps: 3, micro_batch: 2}\n");
    const RunConfig config = load_run(path, {"train.steps=5", "train.steps=4"});
    EXPECT_EQ(config.train.steps, 4);          // command line, the last word
    EXPECT_EQ(config.train.micro_batch, 2);    // file
    EXPECT_EQ(config.model.layers, 4);         // the outer include
    EXPECT_EQ(config.train.global_batch, 16);  // the inner include
    EXPECT_EQ(config.model.width, 768);        // default
    EXPECT_EQ(config.train.lanes, 8);          // derived: min(16 / 2, 8)
    EXPECT_EQ(config.model.ffn_width, 3072);
}

TEST_F(LoadTest, IncludesThatCannotBeReadAreNamed) {
    const std::string self = write("self.yaml", "include: self.yaml\n");
    refuse(self, {}, "circle");
    const std::string a = write("a.yaml", "include: b.yaml\n");
    write("b.yaml", "include: ./sub/../a.yaml\n");
    refuse(a, {}, folder / "a.yaml -> " + (folder / "b.yaml -> ") + (folder / "a.yaml"));
    refuse(write("c.yaml", "include: gone.yaml\n"), {}, folder / "gone.yaml: no such");
    refuse(write("d.yaml", "include: {a: b}\n"), {}, "d.yaml:1:10: include: expected a list");
    refuse(folder / "nothing.yaml", {}, "nothing.yaml: no such configuration file");
    refuse(folder.path(), {}, "is a folder");
    refuse(write("e.yaml", std::string((1 << 20) + 1, '#')), {}, "at most 1 MiB");
}

TEST_F(LoadTest, AMistakeInAnOverriddenFileIsStillFound) {
    write("base.yaml", "train: {steps: x}\n");
    refuse(write("run.yaml", "include: base.yaml\ntrain: {steps: 3}\n"), {},
           "base.yaml:1:16: train.steps: expected an integer");
}

TEST_F(LoadTest, CrossChecksNameTheKeyAndItsPlace) {
    const std::string path = write("run.yaml",
                                   "train:\n"
                                   "  steps: 10\n"
                                   "  global_batch: 8\n"
                                   "  micro_batch: 2\n"
                                   "model: {width: 64, heads: 4}\n"
                                   "data: {sequence_length: 32}\n");
    EXPECT_NO_THROW(load_run(path));
    refuse(write("bad.yaml", "include: run.yaml\nmodel:\n  heads: 5\n"), {},
           "bad.yaml:3:10: model.heads: model.width 64 is not a multiple of 5 heads");
    refuse(path, {"model.kv_heads=3"}, "command line: model.kv_heads=3: model.kv_heads:");
    refuse(path, {"data.sequence_length=2048"}, "model.max_positions is 1024");
    EXPECT_NO_THROW(load_run(path, {"data.sequence_length=2048", "model.positions=rotary"}));
    refuse(path, {"train.micro_batch=3"}, "run.yaml:3:17: train.global_batch: 8 samples are not");
    refuse(path, {"train.lanes=5"}, "train.lanes: 5 lanes, but a step has only 4");
    for (const char* keeps :
         {"train.recompute=selective", "train.recompute=norms", "train.recompute=none"})
        refuse(path, {"train.offload_activations=true", keeps},
               "train.offload_activations: what waits in host memory are the inputs of blocks that "
               "run again: set train.recompute=full");
    EXPECT_NO_THROW(load_run(path, {"train.offload_activations=true", "train.recompute=full"}));
    refuse(path, {"train.tokens=100"}, "train.steps is given too");
    refuse(path, {"train.steps=null"}, "train.steps: is missing");
    refuse(path, {"optimizer.min_lr=1"}, "is over optimizer.lr");
    refuse(path, {"optimizer.warmup_steps=11"}, "but the run has 10");
    refuse(path, {"parallel.data=5"}, "write train.lanes=5");
    refuse(path, {"parallel.zero=2", "train.lanes=2"}, "needs train.lanes=4");
    refuse(path, {"data.sources=[{weight: 2}]"}, "data.sources.0: path is missing");
    refuse(path, {"data.sources=[{path: a, name: x}, {path: b, name: x}]"},
           "two sources are called 'x'");
    refuse(path, {"data.skip=[{begin: 4, end: 4}]"}, "data.skip.0: [4, 4) is empty");
    refuse(path, {"data.skip=[{begin: 4, end: 6}, {begin: 5, end: 9}]"},
           "data.skip.1: begins at 5");
    refuse(path, {"train.batch_ramp=[{samples: 0, global_batch: 3}]"}, "train.batch_ramp.0:");
    EXPECT_NO_THROW(load_run(path, {"train.batch_ramp=[{samples: 0, global_batch: 4}, "
                                    "{samples: 9, global_batch: 8}]"}));
    refuse(path,
           {"train.batch_ramp=[{samples: 0, global_batch: 2}, {samples: 9, global_batch: 4}]"},
           "train.batch_ramp.1: the last stage has global_batch 4");
    refuse(path, {"train.batch_ramp=[{samples: 9, global_batch: 8}]"},
           "train.batch_ramp.0: begins at sample 9");
    refuse(path, {"model.rope_scaling.type=llama3"}, "needs model.positions rotary");
    refuse(path, {"model.positions=rotary", "model.head_width=15"}, "15 is odd");
}

TEST(RunConfig, PredictingTheNextTokenNeedsCausalAttention) {
    RunConfig config;
    config.train.steps = 1;
    resolve(config);
    EXPECT_FALSE(validate_language_model(config.model));
    config.model.causal = false;
    EXPECT_EQ(validate_language_model(config.model)->key, "model.causal");
    EXPECT_FALSE(validate(config));  // a classifier's checkpoint stores such a model
    config.model.sliding_window = 8;
    EXPECT_EQ(validate(config)->key, "model.sliding_window");
}

TEST_F(LoadTest, TheWorldMustFitTheMesh) {
    RunConfig config;
    config.train.steps = 1;
    config.train.global_batch = 4;
    resolve(config);
    EXPECT_FALSE(validate_world(config, 1));
    EXPECT_FALSE(validate_world(config, 4));
    EXPECT_EQ(validate_world(config, 5)->key, "train.global_batch");
    config.train.lanes = 2;
    EXPECT_EQ(validate_world(config, 4)->key, "parallel.data");
    EXPECT_NE(validate_world(config, 4)->message.find("train.lanes=4"), std::string::npos);
    config.parallel.tensor = 2;
    EXPECT_FALSE(validate_world(config, 4));
    EXPECT_EQ(validate_world(config, 3)->key, "parallel.tensor");
    EXPECT_NE(validate_world(config, 3)->message.find("start 2 (mpirun -n), or a multiple"),
              std::string::npos);
    config.parallel.tensor = 5;
    EXPECT_EQ(validate_world(config, 5)->key, "parallel.tensor");
    config.parallel.tensor = 1;
    config.parallel.data = 1;
    EXPECT_EQ(validate_world(config, 2)->key, "parallel.data");
    config.parallel.data = 0;
    config.parallel.pipeline = 13;
    EXPECT_EQ(validate_world(config, 13)->key, "parallel.pipeline");
    config.parallel.pipeline = 1;
    config.parallel.zero = 1;
    EXPECT_FALSE(validate_world(config, 2));
    config.parallel.zero = 2;
    EXPECT_EQ(validate_world(config, 2)->key, "parallel.zero") << "a lane holds two slots";
    config.train.lanes = 4;
    EXPECT_FALSE(validate_world(config, 2));
    config.parallel.zero = 0;
    EXPECT_FALSE(validate_world(config, 1));
}

TEST_F(LoadTest, APlainPathIsASource) {
    const std::string in_a_list = write("list.yaml",
                                        "train: {steps: 1}\n"
                                        "data:\n"
                                        "  sources:\n"
                                        "    - data/a\n"
                                        "    - {path: data/b, weight: 2}\n");
    const std::string whole = to_yaml(load_run("", {"train.steps=1",
                                                    "data.sources=[{path: data/a}, {path: data/b, "
                                                    "weight: 2}]"}));
    EXPECT_EQ(to_yaml(load_run(in_a_list)), whole);
    EXPECT_EQ(to_yaml(load_run("", {"train.steps=1", "data.sources=[data/a, data/b]",
                                    "data.sources.1.weight=2"})),
              whole);
    EXPECT_EQ(to_yaml(load_run(in_a_list, {"data.sources.0=data/c", "data.sources.0=data/a"})),
              whole);
    EXPECT_EQ(
        load_run("", {"train.steps=1", "data.sources=[\"two words\", 3]"}).data.sources[1].path,
        "3");
    refuse(in_a_list, {"data.sources=data/a"}, "data.sources: expected a list such as [a, b]");
    refuse(in_a_list, {"data.sources=[null]"}, "data.sources.0: expected keys");
    refuse(in_a_list, {"data.sources=[\"\"]"}, "data.sources.0: path is missing");
    refuse(in_a_list, {"data.skip=[3]"}, "data.skip.0: expected keys (name: value), got '3'");
}

TEST_F(LoadTest, ResolvedTextRoundTrips) {
    RunConfig config = load_run(
        "", {"train.steps=7", "optimizer.lr=0.1", "data.sources=[{path: a/b, weight: 0.3}]",
             "data.skip=[{begin: 1, end: 2}]", "run.time_limit=1h"});
    const std::string text = to_yaml(config);
    EXPECT_EQ(to_yaml(parse_config<RunConfig>(text, "checkpoint")), text);
    RunConfig changed = config;
    changed.train.seed = 5;
    changed.parallel.zero = 1;
    changed.data.sources[0].weight = 0.4;
    const auto changes = diff_configs(config, changed);
    ASSERT_EQ(changes.size(), 3u);
    EXPECT_EQ(changes[0].path, "data.sources");
    EXPECT_EQ(changes[0].resume, Resume::recorded);
    EXPECT_EQ(changes[1].path, "train.seed");
    EXPECT_EQ(changes[1].resume, Resume::refused);
    EXPECT_EQ(changes[2].path, "parallel.zero");
    EXPECT_EQ(changes[2].resume, Resume::free);
}

TEST_F(LoadTest, AnotherLayoutIsFreeWhereItChangesNoBit) {
    const RunConfig config = load_run("", {"train.steps=7"});
    RunConfig changed = config;
    changed.parallel = {.data = 2,
                        .tensor = 2,
                        .pipeline = 2,
                        .schedule = PipelineSchedule::interleaved,
                        .virtual_stages = 2,
                        .stage_layers = {3, 3, 3, 3},
                        .context = 2,
                        .zero = 1,
                        .bucket_bytes = 4096};
    std::map<std::string, Resume> classes;
    for (const auto& change : diff_configs(config, changed))
        classes[change.path] = change.resume;
    EXPECT_EQ(classes.size(), 9u);
    for (const auto& [path, resume] : classes) {
        const bool rounds = path == "parallel.tensor" || path == "parallel.context";
        EXPECT_EQ(resume, rounds ? Resume::recorded : Resume::free) << path;
    }
}

TEST(RunConfig, StepsFollowTheBatchRamp) {
    TrainSection train;
    train.global_batch = 8;
    train.batch_ramp = {{0, 2}, {5, 4}, {12, 8}};
    EXPECT_EQ(global_batch_at(train, 0), 2);
    EXPECT_EQ(global_batch_at(train, 4), 2);
    EXPECT_EQ(global_batch_at(train, 6), 4);
    EXPECT_EQ(global_batch_at(train, 14), 8);
    for (int64_t tokens = 1; tokens < 400; ++tokens) {
        train.tokens = tokens;
        int64_t steps = 0;
        for (int64_t consumed = 0; consumed * 10 < tokens; ++steps)
            consumed += global_batch_at(train, consumed);
        EXPECT_EQ(total_steps(train, 10), steps) << tokens;
    }
}

}  // namespace
}  // namespace plinth::launch
