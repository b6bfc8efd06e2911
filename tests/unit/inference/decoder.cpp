// SPDX-License-Identifier: Apache-2.0
#include "core/inference/decoder.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/autograd/scope.h"
#include "core/inference/kv_cache.h"
#include "core/nn/init.h"
#include "core/ops/cast.h"
#include "core/optim/parameter_storage.h"
#include "kernels/runtime/error.h"

namespace plinth::core::inference {
namespace {

using models::Transformer;
using models::TransformerConfig;
using Positions = TransformerConfig::Positions;

TransformerConfig gpt_style() {
    // Weights far larger than a fresh model's, so that the logits are spread and attention matters.
    return {.vocab_size = 61,
            .vocab_multiple = 8,
            .layers = 2,
            .width = 32,
            .heads = 4,
            .kv_heads = 4,
            .head_width = 8,
            .ffn_width = 64,
            .max_positions = 40,
            .init_stddev = 0.25};
}

TransformerConfig llama_style() {
    TransformerConfig config = gpt_style();
    config.kv_heads = 2;
    config.norm.kind = nn::NormConfig::Kind::rms;
    config.positions = Positions::rotary;
    config.rotary = {.heads = 4, .kv_heads = 2, .theta = 10000.0};
    config.activation = TransformerConfig::Activation::swiglu;
    config.tied_head = config.attention_bias = config.qkv_bias = config.mlp_bias = false;
    config.qk_norm = true;
    return config;
}

/// A window shorter than what is generated.
TransformerConfig mistral_style() {
    TransformerConfig config = llama_style();
    config.attention_window = 9;
    return config;
}

TransformerConfig bloom_style() {
    TransformerConfig config = gpt_style();
    config.positions = Positions::alibi;
    config.embedding_norm = true;
    return config;
}

/// A random model of a style, and a scope to run it in.
class Decoder : public testing::TestWithParam<std::tuple<TransformerConfig, DType>> {
  protected:
    Decoder()
        : model_(std::get<0>(GetParam())),
          masters_(optim::materialize(model_.parameters().all(), allocator_)),
          scope_(
              {.stream = &stream_, .allocator = &allocator_, .compute = std::get<1>(GetParam())}) {
        for (Parameter* parameter : model_.parameters().all()) {
            nn::initialize(*parameter, 7, stream_);
            parameter->changed();
        }
    }

    std::vector<std::vector<int32_t>> decode_with(DecodeConfig config, bool use_cache) const {
        config.use_cache = use_cache;
        return decode(model_, prompts_, config);
    }

    Stream stream_{1};
    CachingAllocator allocator_{host_memory()};
    Transformer model_;
    optim::FlatTensors masters_;
    Scope scope_;
    const std::vector<std::vector<int32_t>> prompts_ = {
        {3}, {1, 2, 3, 4, 5, 6, 7}, {60, 0, 31, 31, 31, 8}};
};

TEST_P(Decoder, GivesTheSameTokensWithAndWithoutACache) {
    const TokenChoice choices[] = {{.temperature = 0.0},
                                   {.temperature = 1.0, .seed = 1},
                                   {.temperature = 0.8, .top_k = 10, .top_p = 0.9, .seed = 2}};
    for (const TokenChoice& choice : choices) {
        const DecodeConfig config{.max_tokens = 24, .choice = choice};
        const auto cached = decode_with(config, true);
        EXPECT_EQ(cached, decode_with(config, false));
        for (const auto& tokens : cached)
            EXPECT_EQ(tokens.size(), 24u);
    }
}

TEST_P(Decoder, TokensDoNotDependOnTheOtherPrompts) {
    const DecodeConfig config{.max_tokens = 12, .choice = {.seed = 3}};
    const auto together = decode_with(config, true);
    EXPECT_EQ(decode(model_, {prompts_[0]}, config).front(), together[0]);
    EXPECT_EQ(decode(model_, {prompts_[0], prompts_[2]}, config).front(), together[0]);
    EXPECT_EQ(decode(model_, {prompts_[0], prompts_[1]}, config)[1], together[1]);
}

TEST_P(Decoder, EqualPromptsAreContinuedDifferently) {
    const DecodeConfig config{.max_tokens = 16, .choice = {.seed = 3}};
    const auto twice = decode(model_, {prompts_[1], prompts_[1]}, config);
    EXPECT_NE(twice[0], twice[1]);
}

TEST_P(Decoder, EndsAtTheEndTokenAndReportsEachToken) {
    const DecodeConfig config{.max_tokens = 24, .choice = {.temperature = 0.0}};
    const auto whole = decode_with(config, true)[1];
    DecodeConfig ending = config;
    ending.end_token = whole[5];
    const auto end = std::find(whole.begin(), whole.end(), whole[5]);
    std::vector<int32_t> reported;
    const auto cut = decode(model_, {prompts_[1]}, ending,
                            [&](size_t, int32_t token) { reported.push_back(token); });
    EXPECT_EQ(cut.front(), std::vector<int32_t>(whole.begin(), end));
    EXPECT_EQ(reported, cut.front());
}

TEST_P(Decoder, ChoosesOnlyIdsOfTheTokenizer) {
    const auto tokens =
        decode_with({.max_tokens = 24, .vocab_size = 5, .choice = {.temperature = 5.0}}, true);
    for (const auto& row : tokens)
        for (int32_t token : row)
            EXPECT_LT(token, 5);
}

/// Tokens through a cache by hand; `advances` false: the mutant.
std::vector<int32_t> decode_through_cache(const Transformer& model, std::vector<int32_t> tokens,
                                          size_t count, bool advances) {
    Scope& scope = Scope::current();
    const TransformerConfig& c = model.config();
    KeyValueCache cache({.layers = c.layers, .batch = 1, .capacity = 40, .dtype = scope.compute()});
    std::vector<int32_t> generated;
    for (size_t seen = 0; generated.size() < count;) {
        const std::vector<int32_t> pending(tokens.begin() + static_cast<ptrdiff_t>(seen),
                                           tokens.end());
        std::vector<int32_t> positions;
        for (; seen < tokens.size(); ++seen)
            positions.push_back(static_cast<int32_t>(seen));
        const auto length = static_cast<int64_t>(pending.size());
        const Batch batch{.tokens = Tensor::of(pending, {1, length}, scope.allocator()),
                          .targets = {},
                          .positions = Tensor::of(positions, {1, length}, scope.allocator()),
                          .document_ids = {},
                          .sample_ids = Tensor::of<int64_t>({0}, {1}, scope.allocator())};
        const Tensor logits = ops::cast(model.project(model.features(batch, cache)), DType::f32);
        if (advances) cache.advance({static_cast<int32_t>(length)});
        const float* last = logits.data<float>() + (length - 1) * c.vocab_size;
        tokens.push_back(
            choose_token({last, static_cast<size_t>(c.vocab_size)}, {.seed = 4}, 0, tokens.size()));
        generated.push_back(tokens.back());
    }
    return generated;
}

TEST_P(Decoder, ACacheThatForgetsToAdvanceIsNoticed) {
    const DecodeConfig config{.max_tokens = 20, .choice = {.seed = 4}, .use_cache = false};
    const auto right = decode(model_, {prompts_[1]}, config).front();
    EXPECT_EQ(decode_through_cache(model_, prompts_[1], 20, true), right);
    EXPECT_NE(decode_through_cache(model_, prompts_[1], 20, false), right);
}

TEST_P(Decoder, LearnedPositionsEndASequence) {
    const auto tokens = decode_with({.max_tokens = 100, .choice = {.temperature = 0.0}}, true);
    const bool learned = model_.config().positions == Positions::learned;
    for (size_t i = 0; i < prompts_.size(); ++i)
        EXPECT_EQ(tokens[i].size(), learned ? 40 - prompts_[i].size() : 100);
}

TEST_P(Decoder, AnEmptyPromptIsRefused) {
    EXPECT_THROW(decode(model_, {{}}, {}), Error);
}

std::string name_of_case(const testing::TestParamInfo<Decoder::ParamType>& parameters) {
    const auto& [config, dtype] = parameters.param;
    const char* style = config.attention_window > 0              ? "mistral"
                        : config.positions == Positions::learned ? "gpt"
                        : config.positions == Positions::rotary  ? "llama"
                                                                 : "bloom";
    return std::string(style) + (dtype == DType::f32 ? "_fp32" : "_bf16");
}

INSTANTIATE_TEST_SUITE_P(Styles, Decoder,
                         testing::Combine(testing::Values(gpt_style(), llama_style(),
                                                          mistral_style(), bloom_style()),
                                          testing::Values(DType::f32, DType::bf16)),
                         name_of_case);

}  // namespace
}  // namespace plinth::core::inference
