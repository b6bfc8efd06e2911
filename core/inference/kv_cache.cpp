// SPDX-License-Identifier: Apache-2.0
#include "core/inference/kv_cache.h"

#include "core/autograd/scope.h"
#include "kernels/kv_cache.h"

namespace plinth::core::inference {

KeyValueCache::KeyValueCache(const Config& config, CachingAllocator& allocator)
    : config_(config),
      allocator_(allocator),
      starts_(static_cast<size_t>(config.batch), 0),
      keys_(static_cast<size_t>(config.layers)),
      values_(static_cast<size_t>(config.layers)) {}

Tensor& KeyValueCache::memory(std::vector<Tensor>& layers, int64_t layer) const {
    Tensor& tensor = layers.at(static_cast<size_t>(layer));
    if (!tensor.defined())
        tensor = Tensor::empty({config_.batch, config_.capacity, config_.width}, config_.dtype,
                               allocator_);
    return tensor;
}

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
    const Tensor starts = Tensor::of(starts_, {config_.batch}, scope.allocator());
    Tensor &keys = memory(keys_, call.layer), &values = memory(values_, call.layer);
    kernels::kv_cache_append(keys.out(), values.out(), qkv.in(), starts.in(), scope.stream());
    return ops::attention_cached(qkv, keys, values, starts, call.options, nn::slopes_of(call));
}

}  // namespace plinth::core::inference
