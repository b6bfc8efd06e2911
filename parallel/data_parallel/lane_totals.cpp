// SPDX-License-Identifier: Apache-2.0
// The totals of a step: where they lie, and what is made of them when every lane has been folded.
#include "kernels/add.h"
#include "parallel/comm/view_bytes.h"
#include "parallel/data_parallel/lane_reducer.h"

namespace plinth::parallel {

using core::Parameter;

View LaneReducer::total_of(size_t bucket) {
    const FlatRange owned = layout_.owned(bucket, rank_, ranks_);
    if (totals_are_in_lane()) return lane_at(bucket, owned);
    return part_of(totals_.out(), totals_at_[bucket], owned.elements());
}

View LaneReducer::total_of(const BucketLayout::Piece& piece) {
    if (totals_are_in_lane()) return lane_at(piece.bucket, piece.flat);
    const int64_t first = layout_.owned(piece.bucket, rank_, ranks_).begin;
    return part_of(totals_.out(), totals_at_[piece.bucket] + piece.flat.begin - first,
                   piece.flat.elements());
}

void LaneReducer::prepare_totals() {
    if (totals_are_in_lane() || totals_.defined()) return;
    int64_t owned = 0;
    for (size_t b = 0; b < layout_.buckets(); ++b) {
        totals_at_.push_back(owned);
        owned += layout_.owned(b, rank_, ranks_).elements();
    }
    totals_ = Tensor::empty({owned}, DType::f32, allocator_);
}

/// Uses of a parameter are cut alike: their owner has the same elements of each.
void LaneReducer::add_uses() {
    for (const Parameter* parameter : parameters_) {
        const auto sums = layout_.owned(*parameter, 0, rank_, ranks_);
        for (int use = 1; use < parameter->uses(); ++use) {
            const auto others = layout_.owned(*parameter, use, rank_, ranks_);
            for (size_t i = 0; i < sums.size(); ++i) {
                const View sum = total_of(sums[i]);
                kernels::add(sum, sum, total_of(others.at(i)), stream_);
            }
        }
    }
}

void LaneReducer::gather_totals() {
    // The totals of one rank are whole where they are.
    if (config_.share != GradientShare::whole || ranks_ == 1) return;
    std::deque<Pending> gathers;
    for (size_t b = 0; b < layout_.buckets(); ++b) {
        if (!layout_.units()[layout_.unit_of(b)].holds_weights) continue;
        std::vector<Bytes> pieces;
        for (int peer = 0; peer < ranks_; ++peer)
            pieces.push_back(bytes_of(lane_at(b, layout_.owned(b, peer, ranks_))));
        const View mine = total_of(b);
        statistics_.bytes_sent += static_cast<int64_t>(mine.bytes()) * (ranks_ - 1);
        while (gathers.size() >= static_cast<size_t>(config_.in_flight)) {
            gathers.front().wait();
            gathers.pop_front();
        }
        gathers.push_back(communicator_.start_all_gather("gradients, totals of " + layout_.label(b),
                                                         bytes_of(ConstView(mine)), pieces));
    }
    for (Pending& gather : gathers)
        gather.wait();
}

void LaneReducer::append_owned(std::vector<core::optim::ParameterGradient>& list,
                               Parameter& parameter, int use) {
    for (const BucketLayout::Piece& piece : layout_.owned(parameter, use, rank_, ranks_))
        list.push_back({&parameter, total_of(piece), piece.range.begin});
}

std::vector<core::optim::ParameterGradient> LaneReducer::owned_by_use() {
    std::vector<core::optim::ParameterGradient> all;
    for (Parameter* parameter : parameters_)
        for (int use = 0; use < std::max(1, parameter->uses()); ++use)
            append_owned(all, *parameter, use);
    return all;
}

void LaneReducer::list_owned() {
    for (Parameter* parameter : parameters_)
        append_owned(owned_, *parameter, 0);
}

void LaneReducer::list_gradients() {
    if (config_.share != GradientShare::whole) return;
    for (Parameter* parameter : parameters_) {
        const BucketLayout::Entry& entry = layout_.entries()[layout_.entry_of(*parameter, 0)];
        const bool in_totals = ranks_ == 1 && !totals_are_in_lane();
        const View sum = in_totals
                             ? part_of(totals_.out(), entry.range.begin, entry.range.elements())
                             : lane_.at(entry.unit, entry.range);
        gradients_.push_back(
            {parameter, View(sum.data, DType::f32, parameter->local_shape(), sum.device)});
    }
}

}  // namespace plinth::parallel
