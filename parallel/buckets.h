// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/optim/parameter_storage.h"

namespace plinth::parallel {

/// Elements [begin, end) of the flat gradient buffer.
struct FlatRange {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t elements() const { return end - begin; }
    bool operator==(const FlatRange&) const = default;
};

/// Places the gradient of every use of every parameter in one flat buffer and cuts that into
/// buckets, which are exchanged one by one, and each bucket into the ranges that ranks own. Uses
/// lie in the order in which the backward pass finishes them: last declared first, and before those
/// the repeated uses (a tied head is read from the last block). Each begins on a 1,024-element
/// boundary, and all cuts are there. On all ranks of a tensor group the places are the same.
///
/// Neighbours that together fill a bucket are a unit; units are cut into buckets of about equal
/// size. So a parameter lies in one unit, however many buckets that has: units are what ZeRO takes
/// and gives back at once. A parameter that is used repeatedly is a unit alone for each use, so
/// that all its uses are cut alike and one rank owns the same elements of each.
class BucketLayout {
  public:
    static constexpr int64_t alignment = core::optim::FlatTensors::alignment;

    struct Entry {
        core::Parameter* parameter = nullptr;
        int use = 0;
        FlatRange range;  ///< without padding
        size_t unit = 0;
        size_t first_bucket = 0;
        size_t last_bucket = 0;
    };
    struct Unit {
        FlatRange range;
        size_t first_bucket = 0, end_bucket = 0;
        size_t first_entry = 0, end_entry = 0;
        /// False for all uses of a parameter but one: nothing but gradients lies there.
        bool holds_weights = true;
        bool is_repeated = false;  ///< one of several uses
    };
    /// Consecutive elements of one use of a parameter that a rank owns.
    struct Piece {
        core::optim::ParameterRange range;
        FlatRange flat;
        size_t bucket = 0;  ///< the first, where one rank owns several
    };

    /// `bucket_bytes` of fp32 are rounded down to a whole number of blocks, at least one.
    BucketLayout(std::span<core::Parameter* const> parameters, int64_t bucket_bytes);

    int64_t elements() const { return elements_; }  ///< padding included
    const std::vector<Entry>& entries() const { return entries_; }
    /// Index of one use of a parameter; an unknown one is an internal error.
    size_t entry_of(const core::Parameter& parameter, int use) const;
    const std::vector<Unit>& units() const { return units_; }

    size_t buckets() const { return buckets_.size(); }
    FlatRange bucket(size_t b) const { return buckets_[b]; }
    size_t unit_of(size_t b) const { return unit_of_[b]; }
    /// The part of bucket b that `rank` sums.
    FlatRange owned(size_t b, int rank, int ranks) const;
    /// What `rank` owns of one use of a parameter, in rising order.
    std::vector<Piece> owned(const core::Parameter& parameter, int use, int rank, int ranks) const;
    /// Number and first tensor of a bucket, for messages.
    const std::string& label(size_t b) const { return labels_[b]; }

  private:
    void place(core::Parameter& parameter, int use);
    void close_unit(int64_t bucket_elements);

    int64_t elements_ = 0;
    std::vector<Entry> entries_;
    std::unordered_map<const core::Parameter*, std::vector<size_t>> index_;
    std::vector<Unit> units_;
    std::vector<FlatRange> buckets_;
    std::vector<size_t> unit_of_;
    std::vector<std::string> labels_;
};

}  // namespace plinth::parallel
