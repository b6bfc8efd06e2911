// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/buckets.h"

#include <algorithm>

namespace plinth::parallel {

namespace {
/// A parameter that no layer declared a use of still has a gradient: zero.
int uses_of(const core::Parameter& parameter) {
    return std::max(1, parameter.uses());
}
}  // namespace

BucketLayout::BucketLayout(std::span<core::Parameter* const> parameters, int64_t bucket_bytes) {
    const std::vector<core::Parameter*> backward(parameters.rbegin(), parameters.rend());
    for (core::Parameter* parameter : backward)
        for (int use = uses_of(*parameter) - 1; use > 0; --use)
            place(*parameter, use);
    for (core::Parameter* parameter : backward)
        place(*parameter, 0);
    const int64_t blocks =
        std::max<int64_t>(1, bucket_bytes / (alignment * static_cast<int64_t>(sizeof(float))));
    const int64_t size = blocks * alignment;
    for (int64_t begin = 0; begin < elements_; begin += size)
        buckets_.push_back({begin, std::min(begin + size, elements_)});
    labels_.resize(buckets_.size());
    for (Entry& entry : entries_) {
        const int64_t last = std::max(entry.range.begin, entry.range.end - 1);
        entry.first_bucket = static_cast<size_t>(entry.range.begin / size);
        entry.last_bucket = static_cast<size_t>(last / size);
        for (size_t b = entry.first_bucket; b <= entry.last_bucket; ++b)
            if (labels_[b].empty())
                labels_[b] =
                    fmt::format("gradients, bucket {} ({} ..)", b, entry.parameter->name());
    }
}

void BucketLayout::place(core::Parameter& parameter, int use) {
    const int64_t elements = parameter.local_elements();
    CHECK(elements > 0, "{}: a parameter without elements", parameter.name());
    std::vector<size_t>& uses = index_[&parameter];
    uses.resize(static_cast<size_t>(uses_of(parameter)));
    uses[static_cast<size_t>(use)] = entries_.size();
    entries_.push_back(
        {.parameter = &parameter, .use = use, .range = {elements_, elements_ + elements}});
    elements_ += (elements + alignment - 1) / alignment * alignment;
}

size_t BucketLayout::entry_of(const core::Parameter& parameter, int use) const {
    const auto found = index_.find(&parameter);
    CHECK(found != index_.end(), "{}: not a parameter of this gradient buffer", parameter.name());
    CHECK(use >= 0 && static_cast<size_t>(use) < found->second.size(), "{}: use {} of {}",
          parameter.name(), use, found->second.size());
    return found->second[static_cast<size_t>(use)];
}

FlatRange BucketLayout::owned(size_t b, int rank, int ranks) const {
    const FlatRange bucket = buckets_[b];
    const int64_t blocks = bucket.elements() / alignment;
    return {bucket.begin + blocks * rank / ranks * alignment,
            bucket.begin + blocks * (rank + 1) / ranks * alignment};
}

}  // namespace plinth::parallel
