// SPDX-License-Identifier: Apache-2.0
#include "core/inference/kv_cache.h"

#include "core/autograd/scope.h"
#include "kernels/kv_cache.h"

namespace plinth::core::inference {

KeyValueCache::KeyValueCache(const Config& config)
    : config_(config),
      starts_(static_cast<size_t>(config.batch), 0),
      keys_(static_cast<size_t>(config.layers)),
      values_(static_cast<size_t>(config.layers)) {}

void KeyValueCache::advance(const std::vector<int32_t>& counts) {
    CHECK(counts.size() == starts_.size(), "{} counts for {} sequences", counts.size(),
          starts_.size());
    for (size_t b = 0; b < counts.size(); ++b)
        starts_[b] += counts[b];
}

Tensor KeyValueCache::attend(const nn::InnerAttentionCall& call, const Tensor& qkv,
                             const Batch&) const {
    Scope& scope = Scope::current();
    CHECK(scope.tape() == nullptr, "a key-value cache does not train");
    const Tensor starts = scope.of(starts_, {config_.batch});
    Tensor& keys = keys_[static_cast<size_t>(call.layer)];
    Tensor& values = values_[static_cast<size_t>(call.layer)];
    if (!keys.defined()) {
        const int64_t columns = call.options.heads + 2 * call.options.kv_heads;
        const int64_t width = qkv.dim(-1) / columns * call.options.kv_heads;
        for (Tensor* tensor : {&keys, &values})
            *tensor = scope.empty({config_.batch, config_.capacity, width}, config_.dtype);
    }
    kernels::kv_cache_append(keys.out(), values.out(), qkv.in(), starts.in(), scope.stream());
    return ops::attention_cached(qkv, keys, values, starts, call.options, call.slopes.get());
}

}  // namespace plinth::core::inference
