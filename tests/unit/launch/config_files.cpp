// SPDX-License-Identifier: Apache-2.0
// Every file under configs/, the published sizes of the models they describe, and the reference
// page.
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "launch/build.h"
#include "launch/config/model_size.h"
#include "launch/config/reference.h"
#include "launch/config/stage_config.h"
#include "tests/support/expect_error.h"

namespace plinth::launch {
namespace {

using core::io::posix;
namespace fs = std::filesystem;

const std::string root = PLINTH_SOURCE_DIR;

RunConfig load_file(const std::string& name, const std::vector<std::string>& words = {}) {
    return load<RunConfig>(posix(), root + "/configs/" + name, words);
}

TEST(ConfigFiles, EveryFileLoadsAndRoundTrips) {
    int found = 0;
    for (const auto& entry : fs::recursive_directory_iterator(root + "/configs")) {
        if (entry.path().extension() != ".yaml") continue;
        ++found;
        const RunConfig config = load<RunConfig>(posix(), entry.path().string(), {});
        const std::string text = to_yaml(config);
        EXPECT_EQ(to_yaml(parse_config<RunConfig>(text, "stored")), text) << entry.path();
        EXPECT_FALSE(validate_world(config, 1)) << entry.path();
        EXPECT_FALSE(validate_world(config, 4)) << entry.path();
        EXPECT_FALSE(config.data.sources.empty()) << entry.path();
    }
    EXPECT_GE(found, 12);
}

TEST(ConfigFiles, ParameterCountsArePublishedOnes) {
    const std::vector<std::pair<std::string, int64_t>> published{
        {"gpt/gpt2_124m.yaml", 124'439'808},      {"gpt/gpt2_350m.yaml", 354'823'168},
        {"gpt/gpt2_774m.yaml", 774'030'080},      {"gpt/gpt2_1558m.yaml", 1'557'611'200},
        {"llama/llama_1b.yaml", 1'235'814'400},   {"llama/llama_8b.yaml", 8'030'261'248},
        {"llama/mistral_7b.yaml", 7'241'732'096}, {"bloom/bloom_560m.yaml", 559'214'592}};
    for (const auto& [name, count] : published) {
        const ModelSection model = load_file(name).model;
        EXPECT_EQ(parameter_count(model), count) << name;
        // What is built agrees with the formula. Declaring makes names and shapes, no storage: a
        // model of 8 G parameters is declared here in a moment.
        core::models::Transformer declared(transformer_config(model));
        EXPECT_EQ(declared.parameters().elements(), count) << name;
        for (const core::Parameter* parameter : declared.parameters().all())
            EXPECT_FALSE(parameter->is_materialized()) << parameter->name();
    }
    // Each switch is seen by the formula: an untied head, no biases, QK norm.
    const auto changed = [](const std::string& word) {
        return parameter_count(load_file("gpt/gpt2_124m.yaml", {word}).model) - 124'439'808;
    };
    EXPECT_EQ(changed("model.tied_head=false"), 50257 * 768);
    EXPECT_EQ(changed("model.qkv_bias=false"), -12 * 3 * 768);
    EXPECT_EQ(changed("model.attention_bias=false"), -12 * 768);
    EXPECT_EQ(changed("model.mlp_bias=false"), -12 * 5 * 768);
    EXPECT_EQ(changed("model.qk_norm=true"), 12 * 2 * 64);
    EXPECT_EQ(changed("model.norm=rms"), -25 * 768);
    EXPECT_EQ(changed("model.positions=rotary"), -1024 * 768);
    EXPECT_EQ(changed("model.embedding_norm=true"), 2 * 768);
}

TEST(ConfigFiles, MatmulParametersCountTheHeadOnce) {
    const ModelSection gpt2 = load_file("gpt/gpt2_124m.yaml").model;
    EXPECT_EQ(matmul_parameters(gpt2), 12 * (12 * 768 * 768) + 50257 * 768);
    const ModelSection llama = load_file("llama/llama_8b.yaml").model;
    EXPECT_EQ(matmul_parameters(llama),
              int64_t{32} * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336) +
                  int64_t{128256} * 4096);
}

TEST(ConfigFiles, ReferencePageIsTrue) {
    const std::string page = root + "/docs/configuration.md";
    const std::string generated = configuration_reference();
    if (posix().exists(page) && core::io::read_all(posix(), page) == generated) return;
    const std::string fresh = fs::temp_directory_path() / "plinth_configuration.md";
    core::io::write_atomically(posix(), fresh, generated);
    GTEST_FAIL() << "docs/configuration.md is not what the code says; run\n"
                 << "  plinth config reference > docs/configuration.md   (or: cp " << fresh << ")";
}

TEST(ConfigFiles, EveryKeyIsDocumented) {
    const auto check = [](const Schema& schema) {
        for (const Key& key : schema.keys()) {
            EXPECT_GT(key.attributes.doc.size(), 5u) << key.path;
            EXPECT_TRUE(key.attributes.doc.ends_with('.') || key.attributes.doc.ends_with("folder"))
                << key.path << ": " << key.attributes.doc;
            EXPECT_EQ(key.attributes.doc.find('\n'), std::string::npos) << key.path;
        }
    };
    RunConfig run;
    FinetuneConfig finetune;
    Schema run_schema;
    Schema finetune_schema;
    declare(run_schema, run);
    declare(finetune_schema, finetune);
    check(run_schema);
    check(finetune_schema);
}

TEST(LauncherFiles, TheKubernetesTemplateHangsTogether) {
    const YAML::Node job = YAML::LoadFile(root + "/launch/kubernetes/mpijob.yaml");
    EXPECT_EQ(job["apiVersion"].as<std::string>() + " " + job["kind"].as<std::string>(),
              "kubeflow.org/v2beta1 MPIJob");
    const YAML::Node launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"];
    const YAML::Node worker = job["spec"]["mpiReplicaSpecs"]["Worker"];
    // With OnFailure a pod is started again in its place, and its log is lost.
    EXPECT_EQ(launcher["restartPolicy"].as<std::string>(), "Never");
    EXPECT_GT(job["spec"]["runPolicy"]["backoffLimit"].as<int>(), 0);
    for (const YAML::Node& replica : {launcher, worker}) {
        const YAML::Node pod = replica["template"]["spec"];
        EXPECT_GT(pod["terminationGracePeriodSeconds"].as<int>(), 0);
        std::set<std::string> volumes;
        for (const YAML::Node& volume : pod["volumes"])
            volumes.insert(volume["name"].as<std::string>());
        for (const YAML::Node& mount : pod["containers"][0]["volumeMounts"])
            EXPECT_TRUE(volumes.contains(mount["name"].as<std::string>()));
    }
    const auto command =
        launcher["template"]["spec"]["containers"][0]["command"].as<std::vector<std::string>>();
    const auto after = [&](const std::string& word) {
        const auto found = std::find(command.begin(), command.end(), word);
        return found == command.end() || found + 1 == command.end() ? "" : found[1];
    };
    EXPECT_EQ(command.at(0), "launch/supervise.sh");
    for (const std::string& word : command)
        if (word.starts_with("launch/") || word.starts_with("configs/")) {
            EXPECT_TRUE(fs::exists(root + "/" + word)) << word;
        }
    const int slots = job["spec"]["slotsPerWorker"].as<int>();
    EXPECT_EQ(after("-n"), std::to_string(slots * worker["replicas"].as<int>()));
    EXPECT_EQ(worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
                  .as<int>(),
              slots);
    // supervise.sh looks for the steps where the run writes them.
    EXPECT_EQ(command.back(), "run.folder=" + after("--run"));
    EXPECT_TRUE(after("--hopeless").starts_with(after("--run") + "/"));
    EXPECT_TRUE(after("--run").starts_with("/runs/"));
}

TEST(StageConfigs, RefuseWhatIsMissingAndFillInTheRest) {
    const auto refuse = [](auto config, const std::vector<std::string>& words,
                           const std::string& message) {
        test::expect_error(
            ErrorKind::config, [&] { load<decltype(config)>(posix(), "", words); }, message);
    };
    refuse(PrepareConfig{}, {}, "prepare.inputs: is missing");
    refuse(PrepareConfig{}, {"prepare.inputs=[a]"}, "prepare.output: is missing");
    refuse(TokenizerConfig{}, {"tokenizer.inputs=[a]"}, "tokenizer.output: is missing");
    refuse(FinetuneConfig{}, {"finetune.files=[a]"}, "checkpoint.init: is missing");
    refuse(EvaluateConfig{}, {"evaluate.checkpoint=c"}, "evaluate.data: is missing");
    refuse(GenerateConfig{}, {"generate.checkpoint=c"}, "generate.prompts: is missing");
    refuse(EvaluateConfig{},
           {"evaluate.checkpoint=c", "evaluate.data=[d]", "evaluate.sequence_length=4",
            "evaluate.stride=5"},
           "evaluate.stride: 5 is over");
    const std::vector<std::string> tuned{"finetune.files=[a]", "checkpoint.init=c"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), tuned.begin(), tuned.end());
        return more;
    };
    refuse(FinetuneConfig{}, tuned, "finetune.epochs");
    refuse(FinetuneConfig{}, with({"finetune.epochs=2", "train.steps=3"}), "is given too");
    refuse(FinetuneConfig{}, with({"finetune.epochs=2", "finetune.labels=[a]"}), "classification");
    EXPECT_NO_THROW(load<FinetuneConfig>(posix(), "", with({"finetune.epochs=2"})));
    const std::vector<std::string> prepared{"prepare.inputs=[a]", "prepare.output=data/text/"};
    EXPECT_EQ(load<PrepareConfig>(posix(), "", prepared).prepare.name, "text");
}

}  // namespace
}  // namespace plinth::launch
