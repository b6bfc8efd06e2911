// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include "kernels/attention_choice.h"
#include "tests/gpu/attention_operands.h"
#include "tests/gpu/device_test.h"
#include "tests/support/emulated_device.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using kernels::Attention;
using kernels::AttentionMask;

enum Place { at_y, at_log_sum, at_dqkv, at_qkv, at_dy, at_slopes, at_documents, at_samples };

/// Operands of one forward and one backward pass.
std::vector<Operand> operands_of(const AttentionCase& c, DType dtype) {
    const Shape packed{c.batch, c.tokens, c.columns()}, rows{c.batch, c.tokens, c.heads * c.width};
    const double tolerance = usual_tolerance(dtype);
    return {output("y", rows, dtype, tolerance),
            // cuDNN approximates exponentials.
            output("log_sum", {c.batch, c.heads, c.tokens}, DType::f32,
                   dtype == DType::f32 ? 1.2e-5 : 1e-3),
            output("dqkv", packed, dtype, tolerance), spread("qkv", packed, dtype),
            input("dy", rows, dtype), slopes_of(c), document_numbers(c), sample_numbers(c)};
}

kernels::AttentionCounts attention_counts(Stream& stream) {
    using Counts = kernels::AttentionCounts (*)(Stream&);
    return reinterpret_cast<Counts>(stream.device_kernel("attention_counts"))(stream);
}

class AttentionDeviceTest : public DeviceTest {
  protected:
    /// One forward and one backward pass; on the device it notes who served.
    Call both_passes(const Attention& options) {
        return [this, options](const std::vector<View>& views, Stream& stream) {
            const AttentionMask mask{views[at_slopes], views[at_documents], views[at_samples]};
            kernels::attention_forward(views[at_y], views[at_log_sum], views[at_qkv], mask, options,
                                       stream);
            kernels::attention_backward(views[at_dqkv], views[at_dy], views[at_y],
                                        views[at_log_sum], views[at_qkv], mask, options, stream);
            if (stream.device().type == DeviceType::cuda) counts_ = attention_counts(stream);
        };
    }
    void expect_both_passes(const AttentionCase& c, DType dtype) {
        expect_same(operands_of(c, dtype), both_passes(attention_options(c)),
                    std::string(c.name) + " " + std::string(name_of(dtype)));
    }
    void expect_both_passes(const std::vector<AttentionCase>& cases) {
        for (const AttentionCase& c : cases)
            for (const DType dtype : {DType::f32, DType::bf16})
                expect_both_passes(c, dtype);
    }

    kernels::AttentionCounts counts_;
};

TEST_F(AttentionDeviceTest, EveryMaskAndOddSizes) {
    expect_both_passes(attention_test_cases);
}

TEST_F(AttentionDeviceTest, HeadWidths) {
    expect_both_passes({{"width 16", 2, 70, 2, 2, 16},
                        {"width 64", 1, 130, 4, 2, 64},
                        {"width 64 bidirectional", 1, 130, 2, 1, 64, false},
                        {"width 80", 1, 97, 2, 1, 80},
                        {"width 96", 1, 70, 3, 3, 96, false},
                        {"width 100 everything", 1, 67, 2, 1, 100, true, true, true, 0.2f},
                        {"width 128", 1, 131, 4, 1, 128},
                        {"width 129", 1, 37, 1, 1, 129},
                        {"width 192 everything", 1, 67, 2, 1, 192, true, true, true, 0.2f},
                        {"width 256", 1, 70, 2, 1, 256}});
}

TEST_F(AttentionDeviceTest, OneToken) {
    expect_both_passes(
        {{"one token", 3, 1, 4, 2, 64}, {"one token bidirectional", 3, 1, 4, 4, 16, false}});
}

TEST_F(AttentionDeviceTest, LongSequences) {
    expect_both_passes({{"T=1024", 1, 1024, 2, 2, 64},
                        {"T=1021 grouped", 1, 1021, 2, 1, 128},
                        {"T=1024 bidirectional", 1, 1024, 1, 1, 64, false},
                        {"T=1000 dropout", 1, 1000, 1, 1, 64, true, false, false, 0.1f}});
}

TEST_F(AttentionDeviceTest, AGivenScale) {
    const AttentionCase c{"scale", 1, 70, 2, 2, 32};
    Attention options = attention_options(c);
    options.scale = 0.3f;
    for (const DType dtype : {DType::f32, DType::bf16})
        expect_same(operands_of(c, dtype), both_passes(options), "scale");
}

/// What cuDNN serves.
const std::vector<AttentionCase> cudnn_cases = {
    {"cudnn", 2, 256, 4, 4, 64},
    {"cudnn grouped", 2, 192, 6, 2, 128},
    {"cudnn bidirectional", 2, 128, 3, 3, 64, false},
    {"cudnn width 8", 2, 128, 2, 2, 8},
    {"cudnn width 80", 1, 130, 2, 1, 80},
    {"cudnn width 256", 1, 128, 2, 2, 256},
    {"cudnn odd length", 2, 197, 2, 2, 64},
    {"cudnn odd length bidirectional", 2, 197, 2, 1, 64, false},
    {"cudnn two tokens", 2, 2, 2, 2, 64},
    {"cudnn window", 2, 256, 4, 2, 64, true, false, false, 0.0f, 100},
    {"cudnn window of one", 1, 197, 2, 2, 64, true, false, false, 0.0f, 1}};

/// One document is no mask, but only the own kernels know any.
Operand one_document(const AttentionCase& c) {
    const Shape tokens{c.batch, c.tokens};
    return input_of("documents", tokens,
                    std::vector<int32_t>(static_cast<size_t>(tokens.elements()), 3));
}

TEST_F(AttentionDeviceTest, CudnnAndTheOwnKernelsAgree) {
    if (is_emulated_device()) GTEST_SKIP() << "the emulated device has no cuDNN";
    for (const AttentionCase& c : cudnn_cases) {
        expect_both_passes(c, DType::bf16);
        EXPECT_EQ(counts_.refused, 0) << c.name << ": " << counts_.refusal;
        EXPECT_EQ(counts_.tiled + counts_.tensor_core, 0) << c.name;
    }
    for (const AttentionCase& c : cudnn_cases) {
        const auto of_cudnn =
            on_device(operands_of(c, DType::bf16), both_passes(attention_options(c)));
        const auto before = counts_;
        auto operands = operands_of(c, DType::bf16);
        operands[at_documents] = one_document(c);
        const auto own = on_device(operands, both_passes(attention_options(c)));
        const bool is_wide = c.width > kernels::largest_tensor_core_width;
        EXPECT_EQ(counts_.tensor_core, before.tensor_core + (is_wide ? 0 : 2)) << c.name;
        EXPECT_EQ(counts_.tiled, before.tiled + (is_wide ? 2 : 0)) << c.name;
        for (const size_t i : {size_t{at_y}, size_t{at_log_sum}, size_t{at_dqkv}})
            for (size_t j = 0; j < own[i].size(); ++j)
                ASSERT_NEAR(of_cudnn[i][j], own[i][j],
                            usual_tolerance(DType::bf16) * (std::abs(own[i][j]) + 1.0))
                    << c.name << ": " << operands[i].name << "[" << j << "]";
    }
}

/// What the own kernels on matrix units serve: bf16 that cuDNN does not compute in the same way.
/// Each tile width and heads that fill none, every mask, lengths around the tiles of 32, 64 and 128
/// tokens.
const std::vector<AttentionCase> tensor_core_cases = {
    {"one token", 2, 1, 2, 1, 64, true, true},
    {"width 8", 2, 70, 2, 2, 8, true, true},
    {"width 64 alibi", 1, 197, 4, 2, 64, true, true},
    {"width 64 documents", 2, 200, 2, 1, 64, true, false, true},
    {"width 64 documents both ways", 2, 130, 2, 2, 64, false, false, true},
    {"width 64 dropout", 2, 150, 2, 2, 64, true, false, false, 0.1f},
    {"width 64 dropout both ways", 1, 129, 4, 2, 64, false, false, false, 0.25f},
    {"width 64 window", 1, 300, 2, 2, 64, true, true, false, 0.0f, 70},
    {"width 80 everything", 2, 97, 2, 1, 80, true, true, true, 0.1f},
    {"width 96 dropout", 1, 97, 3, 1, 96, true, false, false, 0.1f},
    {"width 96 documents", 1, 150, 2, 2, 96, true, false, true},
    {"width 128 alibi", 1, 65, 2, 2, 128, true, true},
    {"width 128 documents", 1, 200, 2, 1, 128, true, false, true},
    {"width 128 dropout", 1, 131, 4, 2, 128, true, false, false, 0.3f},
    {"width 128 everything in a window", 1, 260, 2, 1, 128, true, true, true, 0.1f, 75},
    {"width 128 everything both ways", 1, 67, 2, 1, 128, false, true, true, 0.1f}};

TEST_F(AttentionDeviceTest, TensorCoresServeEveryMask) {
    for (const AttentionCase& c : tensor_core_cases) {
        counts_ = {};
        const auto before = counts_.tensor_core;
        expect_both_passes(c, DType::bf16);
        EXPECT_GT(counts_.tensor_core, before) << c.name;
        EXPECT_EQ(counts_.cudnn + counts_.refused + counts_.tiled, 0) << c.name;
    }
}

TEST_F(AttentionDeviceTest, TensorCoresServeLongSequences) {
    // Documents of 45 tokens: most tiles have none in common.
    for (const AttentionCase& c : std::vector<AttentionCase>{
             {"T=1024 documents", 1, 1024, 2, 2, 64, true, false, true},
             {"T=1021 dropout", 1, 1021, 2, 1, 128, true, false, false, 0.1f},
             {"T=1000 alibi in a window", 1, 1000, 1, 1, 96, true, true, false, 0.0f, 333}})
        expect_both_passes(c, DType::bf16);
}

/// The same sample twice in a batch has the same bits twice.
TEST_F(AttentionDeviceTest, APlaceInTheBatchChangesNoBit) {
    for (AttentionCase c : tensor_core_cases) {
        c.batch = 1;
        const auto once = operands_of(c, DType::bf16);
        const auto alone = on_device(once, both_passes(attention_options(c)));
        c.batch = 3;
        auto operands = operands_of(c, DType::bf16);
        for (size_t i = 0; i < operands.size(); ++i)
            if (i != at_slopes && !once[i].bytes.empty()) {
                operands[i].bytes.clear();
                for (int b = 0; b < 3; ++b)
                    operands[i].bytes.insert(operands[i].bytes.end(), once[i].bytes.begin(),
                                             once[i].bytes.end());
            }
        const auto thrice = on_device(operands, both_passes(attention_options(c)));
        for (const size_t i : {size_t{at_y}, size_t{at_log_sum}, size_t{at_dqkv}})
            for (size_t j = 0; j < thrice[i].size(); ++j)
                ASSERT_EQ(thrice[i][j], alone[i][j % alone[i].size()])
                    << c.name << ": " << operands[i].name << "[" << j << "]";
    }
}

/// The non-deterministic gradients differ in their last bits from run to run, and no further.
class AttentionFastDeviceTest : public AttentionDeviceTest {
  protected:
    AttentionFastDeviceTest() { options_.reproducible = false; }
};

TEST_F(AttentionFastDeviceTest, GradientsNearTheHosts) {
    if (is_emulated_device()) GTEST_SKIP() << "the emulated device has no cuDNN";
    for (const AttentionCase& c : cudnn_cases) {
        const auto operands = operands_of(c, DType::bf16);
        const auto device = on_device(operands, both_passes(attention_options(c)));
        EXPECT_EQ(counts_.refused, 0) << c.name << ": " << counts_.refusal;
        const auto host = on_host(operands, both_passes(attention_options(c)));
        for (size_t j = 0; j < host[at_dqkv].size(); ++j)
            ASSERT_NEAR(device[at_dqkv][j], host[at_dqkv][j],
                        usual_tolerance(DType::bf16) * (std::abs(host[at_dqkv][j]) + 1.0))
                << c.name << ": dqkv[" << j << "]";
    }
}

TEST_F(AttentionDeviceTest, AHeadWiderThanTheKernelsIsRefused) {
    const AttentionCase c{"width 264", 1, 3, 1, 1, 264};
    const Call call = [&](const std::vector<View>& views, Stream& stream) {
        kernels::attention_forward(views[at_y], views[at_log_sum], views[at_qkv], {},
                                   attention_options(c), stream);
    };
    expect_error(
        ErrorKind::internal, [&] { on_device(operands_of(c, DType::f32), call); },
        "a head width of 264 is more than the 256 of the CUDA kernels");
}

/// New tokens over a cache; samples stand at different places of it.
struct CachedCase {
    const char* name;
    int64_t tokens, heads, kv_heads, width, capacity;
    std::vector<int32_t> starts;
    bool alibi = false;
    int64_t window = 0;
};

std::vector<Operand> operands_of(const CachedCase& c, DType dtype) {
    const auto batch = static_cast<int64_t>(c.starts.size());
    const Shape cache{batch, c.capacity, c.kv_heads * c.width};
    return {output("y", {batch, c.tokens, c.heads * c.width}, dtype, usual_tolerance(dtype)),
            spread("q", {batch, c.tokens, c.heads * c.width}, dtype),
            spread("k", cache, dtype),
            spread("v", cache, dtype),
            input_of("starts", {batch}, c.starts),
            c.alibi ? input_of("slopes", {c.heads}, kernels::alibi_slopes(c.heads)) : Operand{}};
}

class AttentionCachedDeviceTest : public DeviceTest {
  protected:
    static Call call_of(const CachedCase& c) {
        return [&c](const std::vector<View>& views, Stream& stream) {
            kernels::attention_cached(
                views[0], views[1], views[2], views[3], views[4], views[5],
                {.heads = c.heads, .kv_heads = c.kv_heads, .window = c.window}, stream);
        };
    }
};

TEST_F(AttentionCachedDeviceTest, NewTokensOverACache) {
    const std::vector<CachedCase> cases = {
        {"one token", 1, 4, 2, 64, 200, {0, 63, 64, 199}},
        {"prompt", 70, 2, 2, 16, 150, {0, 80}},
        {"odd", 3, 3, 1, 7, 11, {0, 8}, true},
        {"wide", 5, 2, 1, 128, 140, {135, 1}},
        {"window, one token", 1, 4, 2, 64, 300, {0, 99, 163, 299}, false, 100},
        {"window, prompt", 130, 2, 2, 16, 290, {0, 160}, false, 33}};
    for (const CachedCase& c : cases)
        for (const DType dtype : {DType::f32, DType::bf16})
            expect_same(operands_of(c, dtype), call_of(c),
                        std::string(c.name) + " " + std::string(name_of(dtype)));
}

TEST_F(AttentionCachedDeviceTest, AFullCacheIsReported) {
    const CachedCase c{"full", 2, 1, 1, 8, 10, {3, 9}};
    expect_error(
        ErrorKind::internal, [&] { on_device(operands_of(c, DType::f32), call_of(c)); },
        "a cache of 10 tokens cannot take those of sequence 1 up to 11");
}

}  // namespace
}  // namespace plinth::test
