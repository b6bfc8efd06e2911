// SPDX-License-Identifier: Apache-2.0
#include "launch/device_plan.h"

#include <gtest/gtest.h>

#include "launch/config/load.h"
#include "launch/plan.h"
#include "launch/session.h"
#include "launch/stage_parts.h"

namespace plinth::launch {
namespace {

RunConfig config_of(const std::string& file, std::vector<std::string> words) {
    words.emplace_back("run.device=cuda");
    return load<RunConfig>(core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file,
                           words);
}

/// GPT-2 124M as it trains on a card.
RunConfig gpt2(std::vector<std::string> words) {
    words.insert(words.begin(), {"train.dtype=bf16", "train.micro_batch=32",
                                 "train.global_batch=512", "train.recompute=none"});
    return config_of("gpt/gpt2_124m.yaml", std::move(words));
}

constexpr PlannedDevice h100() {
    return {.name = "", .capability = 90, .memory_bytes = 0};
}

ScratchPlan scratch_of(const RunConfig& config, int capability = 90) {
    PlannedDevice device = h100();
    device.capability = capability;
    return scratch_plan(config, stage_parts(config, 0), device);
}

constexpr int64_t mib = int64_t{1} << 20;

TEST(DevicePlan, TheLargestCallDecides) {
    const ScratchPlan plan{.products = 3, .attention = 5, .embedding = 2};
    EXPECT_EQ(plan.total(), 5);
}

TEST(DevicePlan, ProductsNeedTheHeadsGradientWhereChunksAreAdded) {
    const int64_t table = 50304 * 768 * 4;
    EXPECT_EQ(scratch_of(gpt2({})).products, 32 * mib + table);
    // 8,192 tokens are one chunk: nothing is added if each slot is a lane.
    EXPECT_EQ(scratch_of(gpt2({"train.micro_batch=8", "train.lanes=64"})).products, 32 * mib);
    EXPECT_EQ(scratch_of(gpt2({"train.micro_batch=9", "train.global_batch=9"})).products,
              32 * mib + table);
    // Each of two ranks pads its 25,129 rows or fewer.
    EXPECT_EQ(scratch_of(gpt2({"parallel.tensor=2"})).products, 32 * mib + 25216 * 768 * 4);
}

TEST(DevicePlan, ProductsNeedTheLargestGradientWhereSlotsAreAdded) {
    const int64_t table = 50304 * 768 * 4, mlp = 4 * 768 * 768 * 4;
    const auto of_stage = [](const RunConfig& config, int stage) {
        return scratch_plan(config, stage_parts(config, stage), h100()).products;
    };
    EXPECT_EQ(scratch_of(gpt2({"train.micro_batch=8"})).products, 32 * mib + table)
        << "the head's is one product";
    const RunConfig stages = gpt2({"parallel.pipeline=2"});
    EXPECT_EQ(of_stage(stages, 0), 32 * mib + mlp);
    EXPECT_EQ(of_stage(stages, 1), 32 * mib + table);
    EXPECT_EQ(of_stage(gpt2({"parallel.pipeline=2", "parallel.tensor=2"}), 0), 32 * mib + mlp / 2);
}

TEST(DevicePlan, GradientsOfVectorsAndOfSummedHeadsAreFinishedApart) {
    const auto gradients = [](std::vector<std::string> words) {
        return memory_plan(gpt2(std::move(words)), 1).gradients;
    };
    const int64_t table = 50304 * 768 * 4, longest_bias = 4 * 768 * 4;
    const int64_t one_lane = gradients({"train.lanes=1"});
    // Another round of lanes keeps totals beside the lane; slots of one lane each add nothing.
    EXPECT_EQ(gradients({"train.lanes=2"}) - gradients({"train.lanes=16"}), table);
    EXPECT_EQ(one_lane - gradients({"train.lanes=1", "train.micro_batch=8"}), table - longest_bias)
        << "8,192 tokens are one chunk of the head";
}

TEST(DevicePlan, StagesNeedWhatTheirPartsDo) {
    const RunConfig config = gpt2({"parallel.pipeline=2", "train.lanes=16"});
    const ScratchPlan first = scratch_plan(config, stage_parts(config, 0), h100());
    const ScratchPlan last = scratch_plan(config, stage_parts(config, 1), h100());
    EXPECT_EQ(first.products, 32 * mib);
    EXPECT_GT(first.embedding, 0);
    EXPECT_GT(last.products, 32 * mib);
    EXPECT_EQ(last.embedding, 0);
    EXPECT_EQ(first.attention, last.attention);
}

TEST(DevicePlan, AttentionGoesByItsImplementation) {
    const int64_t queries = 32 * 12 * 1024;
    EXPECT_EQ(scratch_of(gpt2({})).attention, 256 + queries * (4 * 64 + 4));
    EXPECT_EQ(scratch_of(gpt2({}), 80).attention, 256 + queries * (2 * 4 * 64 + 4));
    EXPECT_EQ(scratch_of(gpt2({"run.reproducible=true"})).attention,
              256 + queries * (4 + 2 * 1024));
    for (const char* own : {"model.dropout=0.1", "data.document_mask=true", "train.dtype=fp32"})
        EXPECT_EQ(scratch_of(gpt2({own})).attention, 4 * queries) << own;
    EXPECT_EQ(scratch_of(gpt2({}), 75).attention, 4 * queries);
    // cuDNN's deterministic gradients of so many scores would want more than they get.
    EXPECT_EQ(scratch_of(gpt2({"run.reproducible=true", "data.sequence_length=16384",
                               "model.max_positions=16384"}))
                  .attention,
              4 * 16 * queries);
    const RunConfig bloom = config_of("bloom/tiny.yaml", {"train.dtype=bf16"});
    EXPECT_EQ(scratch_of(bloom).attention,
              4 * bloom.train.micro_batch * bloom.model.heads * bloom.data.sequence_length);
}

TEST(DevicePlan, ContextRanksNeedWhatTheirTokensDo) {
    const ScratchPlan plan = scratch_of(gpt2({"parallel.context=4"}));
    EXPECT_EQ(plan.attention, 4 * 32 * 12 * 1024 / 8) << "own kernels, over one of two runs";
    EXPECT_EQ(plan.products, scratch_of(gpt2({"train.micro_batch=8"})).products)
        << "8,192 tokens are one chunk of the head";
    EXPECT_EQ(plan.embedding, scratch_of(gpt2({"train.micro_batch=8"})).embedding);
}

TEST(DevicePlan, GroupedQueriesNeedMore) {
    const auto attention = [](const char* kv_heads) {
        return scratch_of(config_of("llama/llama_1b.yaml", {"train.dtype=bf16", kv_heads}))
            .attention;
    };
    EXPECT_GT(attention("model.kv_heads=4"), attention("model.kv_heads=32"));
}

TEST(DevicePlan, MemoryCountsItOnAGpuOnly) {
    RunConfig config = gpt2({});
    const MemoryPlan on_gpu = memory_plan(config, 1);
    EXPECT_EQ(on_gpu.scratch, scratch_of(config, planned_device().capability).total());
    EXPECT_EQ(on_gpu.computing() + on_gpu.staging, on_gpu.total());
    config.run.device = DeviceKind::cpu;
    EXPECT_EQ(memory_plan(config, 1).scratch, 0);
}

/// "peak of the card" in benchmarks/RESULTS.md: what nvidia-smi saw of an H100 while three models
/// trained on it (benchmarks/gpu/compare_pytorch.py).
TEST(DevicePlan, SumsAreNearWhatACardHadInUse) {
    struct Seen {
        int64_t layers, width, heads, micro_batch;
        double gib;
    };
    for (const Seen& seen : {Seen{12, 768, 12, 32, 13.5}, Seen{24, 1024, 16, 16, 20.5},
                             Seen{36, 1280, 20, 16, 38.7}}) {
        const RunConfig config = gpt2(
            {"model.vocab_multiple=1", "model.vocab_size=50304", "train.lanes=1",
             "checkpoint.every=0", fmt::format("model.layers={}", seen.layers),
             fmt::format("model.width={}", seen.width), fmt::format("model.heads={}", seen.heads),
             fmt::format("train.micro_batch={}", seen.micro_batch)});
        const double foretold =
            static_cast<double>(memory_plan(config, 1).computing() + device_context_estimate) /
            static_cast<double>(int64_t{1} << 30);
        EXPECT_NEAR(foretold / seen.gib, 1.0, 0.05)
            << seen.layers << " layers: " << foretold << " GiB foretold, " << seen.gib << " seen";
    }
}

TEST(DevicePlan, OffloadedStatesAreInTheHostsMemory) {
    const MemoryPlan off = memory_plan(gpt2({}), 1);
    const MemoryPlan on = memory_plan(gpt2({"optimizer.offload=states"}), 1);
    EXPECT_EQ(on.optimizer, 0);
    EXPECT_EQ(on.offloaded, off.optimizer / 2 * 3)
        << "two moments, and a master weight beside them";
    EXPECT_EQ(on.blocks, 16 * mib);
    EXPECT_EQ(on.gradients, off.gradients);
    EXPECT_NEAR(static_cast<double>(on.weights) / static_cast<double>(off.weights), 1.0 / 3, 1e-3)
        << "2 bytes of 2 and 4";
    EXPECT_EQ(off.computing() - on.computing(),
              off.weights - on.weights + off.optimizer - on.optimizer);
    EXPECT_EQ(on.on_host(), on.offloaded + on.blocks + on.staging);
}

TEST(DevicePlan, MomentsInBfloat16TakeHalfTheRoomWhereverTheyAre) {
    for (const char* offload : {"optimizer.offload=none", "optimizer.offload=states"}) {
        const MemoryPlan wide = memory_plan(gpt2({offload}), 1),
                         half = memory_plan(gpt2({offload, "optimizer.moments=bf16"}), 1);
        EXPECT_EQ(2 * half.optimizer, wide.optimizer);
        EXPECT_EQ(3 * half.offloaded, 2 * wide.offloaded);
        EXPECT_EQ(3 * half.staging, 2 * wide.staging);
        EXPECT_EQ(half.weights, wide.weights);
    }
    const auto advice_of = [](const char* moments) {
        return plan_text(config_of("llama/llama_8b.yaml",
                                   {"train.global_batch=8", "train.micro_batch=1", moments}),
                         1);
    };
    EXPECT_NE(advice_of("optimizer.moments=fp32").find(" optimizer.moments=bf16 ("),
              std::string::npos);
    EXPECT_EQ(advice_of("optimizer.moments=bf16").find(" optimizer.moments=bf16 ("),
              std::string::npos);
}

TEST(DevicePlan, OffloadIsNamedWhereItWouldHelp) {
    const auto text_of = [](const char* offload) {
        return plan_text(config_of("llama/llama_8b.yaml",
                                   {"train.global_batch=8", "train.micro_batch=1", offload}),
                         1);
    };
    const std::string off = text_of("optimizer.offload=none"),
                      on = text_of("optimizer.offload=states");
    EXPECT_NE(off.find(" optimizer.offload=states ("), std::string::npos) << off;
    EXPECT_NE(off.find(" train.offload_activations=true optimizer.offload=states ("),
              std::string::npos)
        << off;
    EXPECT_EQ(off.find("offloaded"), std::string::npos);
    EXPECT_NE(on.find(", offloaded master weights and moments "), std::string::npos) << on;
    EXPECT_NE(on.find(", pinned blocks for them 16.000 MiB)"), std::string::npos) << on;
    EXPECT_EQ(on.find(" optimizer.offload=states ("), std::string::npos) << on;
}

TEST(DevicePlan, OffloadedActivationsArePinnedInTheHostsMemory) {
    const std::vector<std::string> full{"train.recompute=full"};
    std::vector<std::string> words = full;
    words.emplace_back("train.offload_activations=true");
    const RunConfig config = gpt2(words);
    const MemoryPlan off = memory_plan(gpt2(full), 1), on = memory_plan(config, 1);
    const int64_t input = int64_t{2} * 32 * 1024 * 768;
    EXPECT_EQ(on.offloaded_activations, 12 * input);
    EXPECT_EQ(on.on_host(), on.offloaded_activations + on.staging);
    EXPECT_LE(off.computing() - on.computing(), 11 * input);
    EXPECT_GE(off.computing() - on.computing(), 10 * input);
    EXPECT_EQ(on.weights + on.gradients + on.optimizer + on.scratch,
              off.weights + off.gradients + off.optimizer + off.scratch);
    // 1F1B: the first stage has as many micro-batches under way as there are stages.
    words.emplace_back("parallel.pipeline=4");
    const RunConfig pipeline = gpt2(words);
    for (int stage = 0; stage < 4; ++stage) {
        const int64_t blocks = stage_parts(pipeline, stage).front().blocks;
        EXPECT_EQ(memory_plan(pipeline, 4, stage).offloaded_activations,
                  (4 - stage) * blocks * input)
            << stage;
    }
}

TEST(DevicePlan, EachPolicyOfRecomputeKeepsLessOfABlock) {
    const auto activations = [](const char* policy) {
        return memory_plan(gpt2({fmt::format("train.recompute={}", policy)}), 1).activations;
    };
    // Outputs of two norms and of GELU; its input; attention's products and the sum behind it.
    const int64_t tokens = int64_t{2} * 32 * 1024, width = 768;
    int64_t milder = activations("none");
    for (const auto& [policy, widths] : std::vector<std::pair<const char*, int64_t>>{
             {"norms", 6}, {"selective", 4}, {"full", 5}}) {
        const int64_t now = activations(policy), of_block = widths * width * tokens;
        EXPECT_LE(milder - now, 12 * of_block + tokens * width) << policy;
        EXPECT_GE(milder - now, 10 * of_block) << policy;
        milder = now;
    }
}

TEST(DevicePlan, TheTextSaysWhatOffloadTakesOffTheGpu) {
    const auto text_of = [](std::vector<std::string> words) {
        words.insert(words.end(), {"train.global_batch=8", "train.micro_batch=1",
                                   "train.recompute=full", "train.dtype=bf16"});
        return plan_text(config_of("llama/llama_8b.yaml", words), 1);
    };
    const auto expect_part = [](const std::string& text, const std::string& part) {
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    };
    EXPECT_EQ(text_of({}).find("# offload "), std::string::npos);
    const std::string inputs = text_of({"train.offload_activations=true"});
    expect_part(inputs, ", pinned activations 2.000 GiB)");
    expect_part(inputs, "# offload             the GPU holds 1.");
    expect_part(inputs, " GiB less with train.offload_activations=true\n");
    const std::string both =
        text_of({"train.offload_activations=true", "optimizer.offload=states"});
    expect_part(both, " GiB less with optimizer.offload=states, ");
    expect_part(both, " GiB less with train.offload_activations=true\n");
}

TEST(DevicePlan, TheTextNamesTheGpu) {
    if (has_cuda_device()) GTEST_SKIP() << "this machine has a GPU, which is named instead";
    EXPECT_TRUE(planned_device().is_assumed);
    const std::string text = plan_text(gpt2({}), 1);
    for (const char* part :
         {"# memory a rank ", " of its GPU (weights ", ", scratch ", " of the host (copy for",
          "# GPU                 NVIDIA H100 80GB HBM3, 79.179 GiB (assumed: there is none on this "
          "machine); CUDA and its libraries take about 600.000 MiB of it"})
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    EXPECT_EQ(text.find("does not fit"), std::string::npos);
    const std::string large = plan_text(
        config_of("llama/llama_8b.yaml", {"train.global_batch=8", "train.micro_batch=1"}), 1);
    EXPECT_NE(large.find("# does not fit "), std::string::npos) << large;
    const std::string on_cpu =
        plan_text(load<RunConfig>(core::io::posix(),
                                  std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml",
                                  std::vector<std::string>{"run.device=cpu"}),
                  1);
    EXPECT_EQ(on_cpu.find("# GPU"), std::string::npos);
}

}  // namespace
}  // namespace plinth::launch
