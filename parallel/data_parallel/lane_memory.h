// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/tensor/tensor.h"
#include "kernels/runtime/stream.h"
#include "parallel/buckets.h"

namespace plinth::parallel {

/// Where the gradients of the running lane lie (fp32): one buffer for all of them, or memory for
/// each unit while it is needed. Padding is always zero: it is exchanged but never written.
class LaneMemory {
  public:
    /// `layout` must outlive it.
    LaneMemory(const BucketLayout& layout, bool keeps, CachingAllocator& allocator, Stream& stream);

    /// True if units keep their memory: one buffer.
    bool keeps() const { return buffer_.defined(); }
    bool has(size_t unit) const { return units_[unit].defined(); }
    /// Memory for a unit that has none.
    void take(size_t unit);
    void give_back(size_t unit) { units_[unit] = {}; }

    /// Elements of a unit that has memory.
    View at(size_t unit, FlatRange range);
    View at_bucket(size_t bucket, FlatRange range) { return at(layout_.unit_of(bucket), range); }

  private:
    const BucketLayout& layout_;
    CachingAllocator& allocator_;
    Stream& stream_;
    core::Tensor buffer_;
    std::vector<core::Tensor> units_;
};

}  // namespace plinth::parallel
