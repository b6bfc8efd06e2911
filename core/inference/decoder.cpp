// SPDX-License-Identifier: Apache-2.0
#include "core/inference/decoder.h"

#include "core/autograd/scope.h"
#include "core/inference/kv_cache.h"
#include "core/ops/cast.h"

namespace plinth::core::inference {

namespace {

/// One sequence and what it has cost so far. Sequences run one by one: then a prompt's tokens
/// cannot depend on its neighbours.
class Sequence {
  public:
    Sequence(const models::Transformer& model, std::vector<int32_t> prompt,
             const DecodeConfig& config, Relay* relay)
        : model_(model),
          config_(config),
          relay_(relay),
          tokens_(std::move(prompt)),
          prompt_(tokens_.size()) {
        CHECK(!tokens_.empty(), "a prompt needs at least one token");
        if (!config.use_cache) return;
        const auto& c = model.config();
        cache_.emplace(KeyValueCache::Config{.layers = c.layers,
                                             .batch = 1,
                                             .capacity = capacity(),
                                             .dtype = Scope::current().compute()});
    }

    bool is_full() const {
        return static_cast<int64_t>(tokens_.size() - prompt_) >= config_.max_tokens ||
               static_cast<int64_t>(tokens_.size()) >= positions_limit();
    }

    int32_t next(uint64_t number) {
        const std::vector<float> logits = last_logits();
        int32_t token = 0;
        if (!logits.empty()) token = choose_token(logits, config_.choice, number, tokens_.size());
        if (relay_) token = relay_->agree(token);
        tokens_.push_back(token);
        return token;
    }

    std::vector<int32_t> generated() const {
        return {tokens_.begin() + static_cast<ptrdiff_t>(prompt_), tokens_.end()};
    }

  private:
    int64_t positions_limit() const {
        const auto& c = model_.config();
        return c.positions == models::TransformerConfig::Positions::learned ? c.max_positions
                                                                            : INT64_MAX;
    }
    int64_t capacity() const {
        return std::min(positions_limit(),
                        static_cast<int64_t>(tokens_.size()) + config_.max_tokens);
    }

    /// The tokens that the model has not seen yet.
    Batch pending_batch(size_t first) const {
        Scope& scope = Scope::current();
        const std::vector<int32_t> tokens(tokens_.begin() + static_cast<ptrdiff_t>(first),
                                          tokens_.end());
        std::vector<int32_t> positions;
        for (size_t i = first; i < tokens_.size(); ++i)
            positions.push_back(static_cast<int32_t>(i));
        const Shape shape{1, static_cast<int64_t>(tokens.size())};
        return {.tokens = scope.of(tokens, shape),
                .targets = {},
                .positions = scope.of(positions, shape),
                .document_ids = {},
                .sample_ids = scope.of<int64_t>({0}, {1})};
    }

    /// Empty where the last part of the model is not here.
    std::vector<float> last_logits() {
        const size_t first = cache_ ? static_cast<size_t>(cache_->length(0)) : 0;
        const Batch batch = pending_batch(first);
        const nn::InnerAttention& inner =
            cache_ ? static_cast<const nn::InnerAttention&>(*cache_) : nn::full_attention();
        const Tensor features =
            relay_ ? relay_->features(batch, inner) : model_.features(batch, inner);
        if (cache_) cache_->advance({static_cast<int32_t>(batch.length())});
        if (!features.defined()) return {};
        const Tensor last = features.reshape({batch.length(), features.dim(-1)})
                                .rows(batch.length() - 1, batch.length());
        const Tensor logits = ops::cast(model_.project(last), DType::f32);
        std::vector<float> values = logits.read<float>(Scope::current().stream());
        const int64_t size = model_.config().vocab_size;
        values.resize(static_cast<size_t>(
            config_.vocab_size > 0 ? std::min(config_.vocab_size, size) : size));
        return values;
    }

    const models::Transformer& model_;
    const DecodeConfig& config_;
    Relay* relay_;
    std::vector<int32_t> tokens_;
    size_t prompt_;
    std::optional<KeyValueCache> cache_;
};

}  // namespace

std::vector<std::vector<int32_t>> decode(const models::Transformer& model,
                                         const std::vector<std::vector<int32_t>>& prompts,
                                         const DecodeConfig& config, const OnToken& on_token,
                                         Relay* relay) {
    std::vector<std::vector<int32_t>> results;
    for (size_t number = 0; number < prompts.size(); ++number) {
        Sequence sequence(model, prompts[number], config, relay);
        while (!sequence.is_full()) {
            const int32_t token = sequence.next(config.first_sequence + number);
            if (config.end_token && token == *config.end_token) break;
            if (on_token) on_token(number, token);
        }
        results.push_back(sequence.generated());
        if (!results.back().empty() && config.end_token &&
            results.back().back() == *config.end_token)
            results.back().pop_back();
    }
    return results;
}

}  // namespace plinth::core::inference
