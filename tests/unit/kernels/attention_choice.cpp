// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_choice.h"

#include <gtest/gtest.h>

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

    bool is_cudnn() const {
        return choose_attention(shape, dtype, mask, options, is_aligned, capability) ==
               AttentionImplementation::cudnn;
    }
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

TEST(AttentionChoice, TheTiledKernelsServeTheRest) {
    Call call;
    call.dtype = DType::f32;
    EXPECT_FALSE(call.is_cudnn()) << "fp32";
    call = {};
    call.is_aligned = false;
    EXPECT_FALSE(call.is_cudnn()) << "an odd address";
    call = {};
    call.options.dropout = 0.1f;
    EXPECT_FALSE(call.is_cudnn()) << "dropout";
    call = {};
    call.mask.slopes = ConstView(slopes, DType::f32, {12});
    EXPECT_FALSE(call.is_cudnn()) << "ALiBi";
    call = {};
    call.mask.documents = ConstView(documents, DType::i32, {4, 1024});
    EXPECT_FALSE(call.is_cudnn()) << "documents";
    call = {};
    call.shape.tokens = 1;
    EXPECT_FALSE(call.is_cudnn()) << "one token";
    call = {};
    call.shape.batch = 0;
    EXPECT_FALSE(call.is_cudnn()) << "nothing";
    for (const int64_t width : {4, 63, 100, 264}) {
        call = {};
        call.shape.width = width;
        EXPECT_FALSE(call.is_cudnn()) << width;
    }
}

TEST(AttentionChoice, TheWidestHeadDependsOnTheDevice) {
    Call call;
    call.shape.width = 256;
    EXPECT_TRUE(call.is_cudnn());
    for (const int capability : {75, 80, 89, 100, 120}) {
        call.capability = capability;
        EXPECT_FALSE(call.is_cudnn()) << capability;
    }
    call.shape.width = 128;
    EXPECT_TRUE(call.is_cudnn());
    call.capability = 75;
    EXPECT_FALSE(call.is_cudnn());
}

}  // namespace
}  // namespace plinth::test
