// SPDX-License-Identifier: Apache-2.0
// Whether cuDNN has plans for our attention graphs on the cards that the preset builds for, asked
// where no GPU is: cuDNN works from a description of the device. CUDA's stub library stands in for
// the driver.
#include <gtest/gtest.h>

#include "kernels/attention_choice.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/device_scratch.h"

namespace plinth::test {
namespace {

using kernels::cuda::AttentionGraph;
using kernels::cuda::AttentionGraphCheck;

/// A card in the words of cuDNN's device property descriptor, by NVIDIA's published figures.
struct Card {
    const char* name;
    int capability, multiprocessors, shared_memory;
    int64_t memory, l2;
    int clock_khz, memory_clock_khz;

    std::string description() const {
        return fmt::format(R"({{
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536, "multiProcessorCount": {}, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": {},
    "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "totalGlobalMem": {}, "smClockRateKHz": {},
    "memClockRateKHz": {}, "l2CacheSize": {}, "cudaDeviceId": 0, "deviceVer": {},
    "driverVer": 13000, "deviceName": "{}"}})",
                           multiprocessors, shared_memory, memory, clock_khz, memory_clock_khz, l2,
                           capability * 10, name);
    }
    AttentionGraphCheck check(const AttentionGraph& graph) const {
        return check_attention_graph(graph, description(), capability);
    }
    std::string refusal(const AttentionGraph& graph) const { return check(graph).refusal; }
};

constexpr Card a100{"NVIDIA A100-SXM4-80GB", 80,       108,     166912,
                    85'095'874'560,          41943040, 1410000, 1593000};
constexpr Card h100{"NVIDIA H100 80GB HBM3", 90,       132,     232448,
                    85'017'755'648,          52428800, 1980000, 2619000};
constexpr Card b200{"NVIDIA B200", 100, 148, 232448, 191'512'313'856, 132644864, 1965000, 3996000};

class AttentionGraphs : public testing::TestWithParam<Card> {};

/// Batch, tokens, heads, key/value heads, head width.
struct Extents {
    int64_t batch, tokens, heads, kv_heads, width;
};

TEST_P(AttentionGraphs, ThereArePlansForWhatCudnnIsChosenFor) {
    const Card& card = GetParam();
    for (const Extents& e :
         {Extents{4, 1024, 12, 12, 64}, Extents{1, 4096, 32, 8, 128}, Extents{2, 128, 2, 2, 8},
          Extents{1, 130, 2, 1, 80}, Extents{1, 512, 4, 4, 96}, Extents{1, 128, 2, 2, 256},
          Extents{2, 197, 2, 2, 64}, Extents{1, 7, 3, 3, 40}, Extents{2, 2, 2, 2, 64}})
        for (const auto& [causal, window] :
             {std::pair{true, 0}, std::pair{true, 1}, std::pair{true, 100}, std::pair{false, 0}})
            for (const auto& [is_backward, is_deterministic] :
                 {std::pair{false, false}, std::pair{true, false}, std::pair{true, true}}) {
                if (e.width > kernels::largest_cudnn_width(card.capability)) continue;
                const kernels::AttentionShape shape{e.batch,    e.tokens, e.heads,
                                                    e.kv_heads, e.width,  0.125f};
                ASSERT_EQ(kernels::choose_attention(shape, DType::bf16, {},
                                                    {.causal = causal, .window = window}, true,
                                                    card.capability),
                          kernels::AttentionImplementation::cudnn);
                EXPECT_EQ(card.refusal({e.batch, e.tokens, e.heads, e.kv_heads, e.width, 0.125f,
                                        causal, window, is_backward, is_deterministic}),
                          "")
                    << e.tokens << " tokens, heads of " << e.width << ", causal " << causal
                    << ", window " << window << ", backward " << is_backward << ", deterministic "
                    << is_deterministic;
            }
}

TEST_P(AttentionGraphs, OtherWidthsAreRefused) {
    AttentionGraph graph{2, 128, 2, 2, 12, 0.125f, true, 0};
    EXPECT_NE(GetParam().refusal(graph), "");
    graph.width = 512;
    graph.is_backward = true;
    EXPECT_NE(GetParam().refusal(graph), "");
}

/// Of the files of configs/ in bf16 that cuDNN's attention serves, and of the rows of
/// benchmarks/gpu/shapes.py, whose micro-batches are larger.
struct Shaped {
    Extents extents;
    int64_t window = 0;
};
constexpr Shaped configured[] = {
    {{4, 1024, 12, 12, 64}},
    {{4, 1024, 16, 16, 64}},
    {{2, 1024, 20, 20, 64}},
    {{1, 1024, 25, 25, 64}},
    {{1, 4096, 32, 8, 64}},
    {{1, 8192, 32, 8, 128}},
    {{1, 8192, 32, 8, 128}, 4096},
    {{32, 1024, 12, 12, 64}},
    {{16, 1024, 20, 20, 64}},
    {{8, 1024, 25, 25, 64}},
    {{8, 2048, 32, 8, 64}},
    {{2, 4096, 32, 8, 128}},
    // And others: lengths of no multiple, other widths, several heads of keys.
    {{2, 1000, 12, 12, 64}},
    {{1, 197, 16, 16, 80}},
    {{2, 2048, 16, 16, 128}},
    {{3, 333, 8, 4, 96}}};

TEST_P(AttentionGraphs, ThePlanOfMemoryHoldsTheWorkspace) {
    for (const auto& [e, window] : configured)
        for (const auto& [is_backward, is_deterministic] :
             {std::pair{false, false}, std::pair{true, false}, std::pair{true, true}}) {
            const AttentionGraphCheck check =
                GetParam().check({e.batch, e.tokens, e.heads, e.kv_heads, e.width, 0.125f, true,
                                  window, is_backward, is_deterministic});
            const kernels::AttentionShape shape{e.batch,    e.tokens, e.heads,
                                                e.kv_heads, e.width,  0.125f};
            const int64_t planned = kernels::cudnn_attention_scratch_bytes(shape, is_deterministic,
                                                                           GetParam().capability);
            const std::string what = fmt::format(
                "{}x{}, {} and {} heads of {}, window {}, backward {}, deterministic {}", e.batch,
                e.tokens, e.heads, e.kv_heads, e.width, window, is_backward, is_deterministic);
            ASSERT_EQ(check.refusal, "") << what;
            EXPECT_LE(check.workspace_bytes, planned) << what;
            if (!is_backward) {
                EXPECT_LE(check.workspace_bytes, 256) << what;
                continue;
            }
            // The plan is for the backward pass. It is above by 64 KiB at most, but for sequences
            // that are no multiple of 128, and where 10.0 needs no dq in fp32 to keep the order.
            int64_t above = 64 << 10;
            if (const int64_t rest = e.tokens % 128; is_deterministic && rest != 0)
                above += 2 * e.batch * e.heads * 128 * (2 * e.tokens + 128);
            if (is_deterministic && GetParam().capability == 100)
                above += 4 * e.batch * e.heads * e.tokens * e.width;
            EXPECT_GE(check.workspace_bytes, planned - above) << what;
        }
}

INSTANTIATE_TEST_SUITE_P(Cards, AttentionGraphs, testing::Values(a100, h100, b200),
                         [](const auto& card) {
                             return fmt::format("Capability{}", card.param.capability);
                         });

}  // namespace
}  // namespace plinth::test
