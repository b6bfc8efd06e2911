// SPDX-License-Identifier: Apache-2.0
#include "launch/sample_text.h"

#include "core/inference/decoder.h"
#include "parallel/pipeline_parallel/relay.h"

namespace plinth::launch {

std::string sample_text(Session& session, const parallel::Groups& groups,
                        core::models::Model& model, const core::data::Tokenizer& tokenizer,
                        const RunConfig& config, int64_t step) {
    const auto* transformer = dynamic_cast<const core::models::Transformer*>(&model);
    if (!transformer) return fmt::format("step {}: this model generates no text", step);
    std::vector<int32_t> prompt = tokenizer.encode(config.train.sample_prompt);
    if (prompt.empty()) prompt.push_back(tokenizer.end_of_document().value_or(0));
    const core::Scope scope(session.scope(dtype_of(config.train.dtype)));
    const core::inference::DecodeConfig decoding{
        .max_tokens = 64,
        .end_token = tokenizer.end_of_document(),
        .vocab_size = tokenizer.vocab_size(),
        .choice = {
            .temperature = 0.8, .top_k = 40, .seed = static_cast<uint64_t>(config.train.seed)}};
    parallel::PipelineRelay relay(*transformer, groups);
    const auto tokens =
        core::inference::decode(*transformer, {prompt}, decoding, {}, &relay).front();
    return fmt::format("step {} sample: {}{}", step, config.train.sample_prompt,
                       tokenizer.decode(tokens));
}

}  // namespace plinth::launch
