// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_choice.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace plinth::test {
namespace {

using kernels::Attention;
using kernels::AttentionImplementation;
using kernels::AttentionMask;
using kernels::AttentionShape;
using kernels::choose_attention;

/// A call that cuDNN serves, until a test changes it.
struct Call {
    AttentionShape shape{4, 1024, 12, 4, 64, 0.125f};
    DType dtype = DType::bf16;
    AttentionMask mask;
    Attention options{.heads = 12, .kv_heads = 4};
    bool is_aligned = true;
    int capability = 90;

    AttentionImplementation chosen() const {
        return choose_attention(shape, dtype, mask, options, is_aligned, capability);
    }
    bool is_cudnn() const { return chosen() == AttentionImplementation::cudnn; }
};

const float slopes[12] = {};
const int32_t documents[4 * 1024] = {};

TEST(AttentionChoice, CudnnServesWhatItComputesInTheSameWay) {
    EXPECT_TRUE(Call{}.is_cudnn());
    Call call;
    call.options.causal = false;
    EXPECT_TRUE(call.is_cudnn());
    call.options.causal = true;
    call.options.window = 256;
    EXPECT_TRUE(call.is_cudnn()) << "a sliding window";
    for (const int64_t width : {8, 16, 80, 96, 128}) {
        call.shape.width = width;
        EXPECT_TRUE(call.is_cudnn()) << width;
    }
}

/// Calls that cuDNN does not compute in the same way.
std::vector<std::pair<const char*, Call>> other_calls() {
    std::vector<std::pair<const char*, Call>> calls(5);
    calls[0].first = "dropout";
    calls[0].second.options.dropout = 0.1f;
    calls[1].first = "ALiBi";
    calls[1].second.mask.slopes = ConstView(slopes, DType::f32, {12});
    calls[2].first = "documents";
    calls[2].second.mask.documents = ConstView(documents, DType::i32, {4, 1024});
    calls[3].first = "one token";
    calls[3].second.shape.tokens = 1;
    calls[4].first = "nothing";
    calls[4].second.shape.batch = 0;
    return calls;
}

TEST(AttentionChoice, TensorCoresServeOtherMasks) {
    for (auto& [what, call] : other_calls()) {
        EXPECT_EQ(call.chosen(), AttentionImplementation::tensor_core) << what;
        for (const int64_t width : {8, 16, 80, 96, 128}) {
            call.shape.width = width;
            EXPECT_EQ(call.chosen(), AttentionImplementation::tensor_core) << what << ' ' << width;
        }
        for (const int capability : {80, 86, 89, 100, 120}) {
            call.capability = capability;
            EXPECT_EQ(call.chosen(), AttentionImplementation::tensor_core)
                << what << ' ' << capability;
        }
    }
}

TEST(AttentionChoice, TheTiledKernelsServeTheRest) {
    auto calls = other_calls();
    calls.emplace_back("as cuDNN serves it", Call{});
    for (const auto& [what, usual] : calls) {
        Call call = usual;
        call.dtype = DType::f32;
        EXPECT_EQ(call.chosen(), AttentionImplementation::tiled) << what << ", fp32";
        call = usual;
        call.is_aligned = false;
        EXPECT_EQ(call.chosen(), AttentionImplementation::tiled) << what << ", an odd address";
        for (const int64_t width : {4, 63, 100, 264}) {
            call = usual;
            call.shape.width = width;
            EXPECT_EQ(call.chosen(), AttentionImplementation::tiled) << what << ' ' << width;
        }
        call = usual;
        call.capability = 75;
        EXPECT_EQ(call.chosen(), AttentionImplementation::tiled) << what << ", no bf16 products";
    }
}

/// Who serves where cuDNN is chosen and has no plan.
TEST(AttentionChoice, OwnKernelsForWhatCudnnRefuses) {
    const Call call;
    EXPECT_EQ(kernels::choose_own_attention(call.shape, call.dtype, true, 90),
              AttentionImplementation::tensor_core);
    EXPECT_EQ(kernels::choose_own_attention(call.shape, call.dtype, false, 90),
              AttentionImplementation::tiled);
    EXPECT_EQ(kernels::choose_own_attention(call.shape, DType::f32, true, 90),
              AttentionImplementation::tiled);
    AttentionShape wide = call.shape;
    wide.width = 136;
    EXPECT_EQ(kernels::choose_own_attention(wide, call.dtype, true, 90),
              AttentionImplementation::tiled);
}

TEST(AttentionChoice, TheWidestHeadDependsOnTheDevice) {
    Call call;
    call.shape.width = 256;
    EXPECT_TRUE(call.is_cudnn());
    for (const int capability : {75, 80, 89, 100, 120}) {
        call.capability = capability;
        EXPECT_EQ(call.chosen(), AttentionImplementation::tiled) << capability;
    }
    call.shape.width = 128;
    EXPECT_TRUE(call.is_cudnn());
    call.capability = 75;
    EXPECT_FALSE(call.is_cudnn());
}

}  // namespace
}  // namespace plinth::test
