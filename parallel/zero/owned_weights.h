// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/optim/offload.h"
#include "core/optim/parameter_storage.h"
#include "kernels/runtime/function_ref.h"
#include "kernels/runtime/stream.h"
#include "parallel/buckets.h"

namespace plinth::parallel {

/// Byte offsets of weights that lie in the order of their gradients (without the repeated uses),
/// each in the dtype in which operations read it.
class WeightLayout {
  public:
    WeightLayout(const BucketLayout& layout, DType compute);

    const BucketLayout& buckets() const { return layout_; }
    DType compute() const { return compute_; }
    int64_t bytes() const { return byte_at(layout_.elements()); }
    /// Of a block of 1,024 elements' first one, or of the end.
    int64_t byte_at(int64_t flat) const;
    int64_t bytes_of(FlatRange range) const { return byte_at(range.end) - byte_at(range.begin); }

  private:
    const BucketLayout& layout_;
    DType compute_;
    std::vector<int64_t> offsets_;  ///< by entry
};

/// What one rank owns of the weights: the copies that operations read, in memory of the caller's,
/// and the fp32 masters, which are the same memory where operations read fp32, but for masters that
/// are offloaded.
class OwnedWeights {
  public:
    /// `place(bucket)` is where the rank's range of that bucket lies, as WeightLayout orders it, in
    /// the allocator's memory. Masters are offloaded unless `offload` is null.
    OwnedWeights(std::span<core::Parameter* const> parameters, const WeightLayout& layout, int rank,
                 int ranks, FunctionRef<std::byte*(size_t bucket)> place,
                 CachingAllocator& allocator, core::optim::Offload* offload);

    std::span<const core::optim::MasterWeights> masters() const { return masters_; }
    /// Makes the copies follow the masters.
    void round(Stream& stream);

  private:
    core::optim::Offload* offload_;
    std::unique_ptr<core::optim::FlatTensors> wide_;  ///< masters that are not what is read
    std::vector<core::optim::MasterWeights> masters_;
    std::vector<core::Tensor> copies_;  ///< by master; undefined where it is what is read
};

}  // namespace plinth::parallel
