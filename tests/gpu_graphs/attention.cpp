// SPDX-License-Identifier: Apache-2.0
// Whether cuDNN has plans for our attention graphs on Hopper, asked where no GPU is: cuDNN works
// from a description of the device. CUDA's stub library stands in for the driver.
#include <gtest/gtest.h>

#include "kernels/cuda/attention_choice.h"
#include "kernels/cuda/attention_cudnn.h"

namespace plinth::test {
namespace {

using kernels::cuda::AttentionGraph;

/// An H100 in the words of cuDNN's device property descriptor.
constexpr const char* h100 = R"({
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "totalGlobalMem": 85017755648, "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000, "l2CacheSize": 52428800, "cudaDeviceId": 0, "deviceVer": 900,
    "driverVer": 13000, "deviceName": "NVIDIA H100 80GB HBM3"})";
constexpr int capability = 90;

std::string refusal(const AttentionGraph& graph) {
    return attention_graph_refusal(graph, h100, capability);
}

/// Batch, tokens, heads, key/value heads, head width.
struct Extents {
    int64_t batch, tokens, heads, kv_heads, width;
};

TEST(AttentionGraphs, HopperHasPlansForWhatCudnnIsChosenFor) {
    for (const Extents& e :
         {Extents{4, 1024, 12, 12, 64}, Extents{1, 4096, 32, 8, 128}, Extents{2, 128, 2, 2, 8},
          Extents{1, 130, 2, 1, 80}, Extents{1, 512, 4, 4, 96}, Extents{1, 128, 2, 2, 256},
          Extents{2, 197, 2, 2, 64}, Extents{1, 7, 3, 3, 40}, Extents{2, 2, 2, 2, 64}})
        for (const bool causal : {true, false})
            for (const auto& [is_backward, is_deterministic] :
                 {std::pair{false, false}, std::pair{true, false}, std::pair{true, true}}) {
                const kernels::AttentionShape shape{e.batch,    e.tokens, e.heads,
                                                    e.kv_heads, e.width,  0.125f};
                ASSERT_EQ(kernels::cuda::choose_attention(shape, DType::bf16, {},
                                                          {.causal = causal}, true, capability),
                          kernels::cuda::AttentionImplementation::cudnn);
                EXPECT_EQ(refusal({e.batch, e.tokens, e.heads, e.kv_heads, e.width, 0.125f, causal,
                                   is_backward, is_deterministic}),
                          "")
                    << e.tokens << " tokens, heads of " << e.width << ", causal " << causal
                    << ", backward " << is_backward << ", deterministic " << is_deterministic;
            }
}

TEST(AttentionGraphs, OtherWidthsAreRefused) {
    AttentionGraph graph{2, 128, 2, 2, 12, 0.125f, true, false, false};
    EXPECT_NE(refusal(graph), "");
    graph.width = 512;
    graph.is_backward = true;
    EXPECT_NE(refusal(graph), "");
}

}  // namespace
}  // namespace plinth::test
