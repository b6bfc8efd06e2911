// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/lane_reducer.h"

#include <algorithm>
#include <cstring>

#include "kernels/add.h"
#include "kernels/cast.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Parameter;
using core::Tensor;

LaneReducer::LaneReducer(std::span<Parameter* const> parameters, Communicator& communicator,
                         CachingAllocator& allocator, Stream& stream,
                         const LaneReducerConfig& config)
    : communicator_(communicator),
      allocator_(allocator),
      stream_(stream),
      config_(config),
      parameters_(parameters.begin(), parameters.end()),
      layout_(parameters, config.bucket_bytes),
      rank_(communicator.rank()),
      ranks_(communicator.size()),
      lane_(layout_, config.share != GradientShare::owned_only, allocator, stream),
      given_(layout_.entries().size()),
      is_added_(layout_.entries().size()),
      learned_(layout_.entries().size(), 1),
      missing_(layout_.buckets()),
      taken_(layout_.units().size()) {
    CHECK(config_.in_flight >= 1, "in_flight is {}", config_.in_flight);
    CHECK(config_.wire == DType::f32 || config_.wire == DType::bf16, "gradients on the wire as {}",
          name_of(config_.wire));
    for (Parameter* parameter : parameters_)
        parameter->set_sink(this);
}

LaneReducer::~LaneReducer() {
    for (Parameter* parameter : parameters_)
        parameter->set_sink(nullptr);
}

// --- the step -----------------------------------------------------------------------------------

void LaneReducer::begin_step(const LanePlan& plan) {
    plan.validate();
    CHECK(plan.ranks == ranks_, "a plan for {} ranks in a group of {}", plan.ranks, ranks_);
    CHECK(exchanges_.empty() && !in_slot_, "the step before was not finished");
    CHECK(lane_.keeps() || plan.lanes == plan.slots,
          "{} lanes of {} slots: gradients that are exchanged after every slot need a lane each",
          plan.lanes, plan.slots);
    plan_ = plan;
    prepare_totals();
    slots_ = plan.slots_of(rank_);
    next_slot_ = 0;
    statistics_ = {};
    waited_before_ = communicator_.seconds_waited();
    gradients_.clear();
    owned_.clear();
}

void LaneReducer::begin_slot(int64_t slot) {
    CHECK(!in_slot_ && next_slot_ < slots_.size() && slots_[next_slot_] == slot,
          "slot {} is not the next one of rank {}", slot, rank_);
    CHECK(exchanges_.empty() || !stream_.is_capturing(), "slot {} is captured beside an exchange",
          slot);
    const int64_t lane = plan_.lane_of_slot(slot);
    in_slot_ = true;
    first_of_lane_ = slot == plan_.lane_begin(lane);
    last_of_lane_ = slot + 1 == plan_.lane_begin(lane + 1);
    round_ = lane / ranks_;
    std::fill(given_.begin(), given_.end(), 0);
    if (first_of_lane_) next_start_ = 0;
    if (first_of_lane_ && knows_uses_) clear_unused_uses();
    if (last_of_lane_) count_missing();
}

void LaneReducer::count_missing() {
    std::fill(missing_.begin(), missing_.end(), 0);
    for (size_t e = 0; e < layout_.entries().size(); ++e)
        for (size_t b = layout_.entries()[e].first_bucket; b <= layout_.entries()[e].last_bucket;
             ++b)
            missing_[b] += learned_[e];
}

void LaneReducer::clear_unused_uses() {
    for (size_t e = 0; e < layout_.entries().size(); ++e) {
        if (learned_[e] != 0) continue;
        const BucketLayout::Entry& entry = layout_.entries()[e];
        if (!lane_.has(entry.unit)) continue;  // cleared when it gets memory
        for (size_t b = entry.first_bucket; b <= entry.last_bucket; ++b)
            wait_until_free(b);
        if (lane_.has(entry.unit)) kernels::fill(lane_.at(entry.unit, entry.range), 0.0f, stream_);
    }
}

/// Memory for a unit of the lane of `round`.
void LaneReducer::take_unit(size_t u, int64_t round) {
    if (lane_.keeps() || (lane_.has(u) && taken_[u].round == round)) return;
    const BucketLayout::Unit& unit = layout_.units()[u];
    for (size_t b = unit.first_bucket; b < unit.end_bucket; ++b)
        wait_until_free(b);  // the lane before gives it back
    lane_.take(u);
    taken_[u] = {.round = round, .buckets = unit.end_bucket - unit.first_bucket};
    for (size_t e = unit.first_entry; e < unit.end_entry; ++e)
        if (learned_[e] == 0) kernels::fill(lane_.at(u, layout_.entries()[e].range), 0.0f, stream_);
}

/// Of an entry whose gradient may go into the lane now.
size_t LaneReducer::begin_gradient(Parameter& parameter, int use) {
    CHECK(in_slot_, "{}: a gradient outside of a micro-batch", parameter.name());
    const size_t e = layout_.entry_of(parameter, use);
    const BucketLayout::Entry& entry = layout_.entries()[e];
    CHECK(++given_[e] == 1,
          "{}: use {} gave two gradients in one micro-batch; each place where a parameter is "
          "multiplied declares its own use",
          parameter.name(), use);
    CHECK(!knows_uses_ || learned_[e] == 1,
          "{}: use {} has a gradient in this micro-batch but had none in the first",
          parameter.name(), use);
    if (!lane_.keeps()) {
        start_finished();  // so that few units have memory
        take_unit(entry.unit, round_);
    } else if (first_of_lane_) {
        // The lane before may still be on its way out of this memory.
        for (size_t b = entry.first_bucket; b <= entry.last_bucket; ++b)
            wait_until_free(b);
    }
    return e;
}

void LaneReducer::end_gradient(size_t e) {
    if (!last_of_lane_) return;
    const BucketLayout::Entry& entry = layout_.entries()[e];
    for (size_t b = entry.first_bucket; b <= entry.last_bucket; ++b)
        --missing_[b];
    start_final_buckets();
}

View LaneReducer::lane_of(size_t e) {
    const BucketLayout::Entry& entry = layout_.entries()[e];
    const View lane = lane_.at(entry.unit, entry.range);
    return {lane.data, DType::f32, entry.parameter->local_shape(), lane.device};
}

/// As large as the largest that `add` is known to get: slots before have shown all.
View LaneReducer::scratch_for(size_t e) {
    const auto room = [this](size_t entry) {
        return layout_.entries()[entry].parameter->padded_shape().elements();
    };
    if (scratch_.empty() || scratch_.back().elements() < room(e)) {
        int64_t largest = room(e);
        for (size_t each = 0; each < is_added_.size(); ++each)
            if (is_added_[each] != 0) largest = std::max(largest, room(each));
        scratch_.push_back(Tensor::empty({largest}, DType::f32, allocator_));
    }
    const View all = scratch_.back().out();
    return {all.data, DType::f32, layout_.entries()[e].parameter->local_shape(), all.device};
}

void LaneReducer::add(Parameter& parameter, int use, FunctionRef<void(View dweight)> product) {
    const size_t e = begin_gradient(parameter, use);
    is_added_[e] = 1;
    const View sum = lane_of(e);
    if (first_of_lane_) {
        product(sum);
    } else {
        const View finished = scratch_for(e);
        product(finished);
        kernels::add(sum, sum, finished, stream_);
    }
    end_gradient(e);
}

void LaneReducer::accumulate(Parameter& parameter, int use,
                             FunctionRef<void(View sum, bool accumulates)> product) {
    const size_t e = begin_gradient(parameter, use);
    product(lane_of(e), !first_of_lane_);
    end_gradient(e);
}

void LaneReducer::end_slot() {
    CHECK(in_slot_, "end_slot without begin_slot");
    in_slot_ = false;
    if (++next_slot_ == slots_.size()) {
        progress();
        statistics_.bytes_hidden = statistics_.bytes;
        for (const Exchange& exchange : exchanges_)
            statistics_.bytes_hidden -= layout_.bucket(exchange.bucket).elements() *
                                        static_cast<int64_t>(size_of(config_.wire));
    }
    if (!knows_uses_) {
        knows_uses_ = true;
        learned_ = given_;
        clear_unused_uses();
    }
    for (size_t e = 0; e < given_.size(); ++e)
        CHECK(given_[e] == learned_[e],
              "{}: use {} had a gradient in the first micro-batch but has none in this one",
              layout_.entries()[e].parameter->name(), layout_.entries()[e].use);
    if (last_of_lane_) start_all_buckets(round_);
}

void LaneReducer::slot_was_launched(int64_t slot) {
    const int64_t lane = plan_.lane_of_slot(slot);
    const bool ends_lane = slot + 1 == plan_.lane_begin(lane + 1);
    CHECK(knows_uses_ && !in_slot_ && exchanges_.empty() && (ranks_ == 1 || !ends_lane),
          "slot {} of a graph, beside an exchange between ranks or other work", slot);
    CHECK(next_slot_ < slots_.size() && slots_[next_slot_] == slot,
          "slot {} is not the next one of rank {}", slot, rank_);
    if (slot == plan_.lane_begin(lane)) next_start_ = 0;
    if (ends_lane)
        for (size_t b = 0; b < layout_.buckets(); ++b)
            statistics_.bytes +=
                layout_.bucket(b).elements() * static_cast<int64_t>(size_of(config_.wire));
    if (++next_slot_ == slots_.size()) statistics_.bytes_hidden = statistics_.bytes;
}

void LaneReducer::complete_exchanges() {
    CHECK(!in_slot_, "exchanges of a lane that is still filled");
    while (!exchanges_.empty())
        complete(0);
}

void LaneReducer::finish(const OwnedHook& before_uses_add) {
    CHECK(!in_slot_ && next_slot_ == slots_.size(), "rank {} has computed {} of its {} slots",
          rank_, next_slot_, slots_.size());
    // A rank without a lane in the last round owns totals all the same.
    const int64_t last = plan_.rounds() - 1;
    if (!has_lane(last)) {
        next_start_ = 0;
        start_all_buckets(last);
    }
    complete_exchanges();
    if (before_uses_add) before_uses_add(owned_by_use());
    add_uses();
    list_owned();
    gather_totals();
    list_gradients();
    statistics_.seconds_waiting = communicator_.seconds_waited() - waited_before_;
}

// --- exchanges ----------------------------------------------------------------------------------

void LaneReducer::progress() {
    if (in_slot_ && last_of_lane_) start_final_buckets();
    if (exchanges_.empty()) return;
    communicator_.progress();
    for (size_t i = 0; i < exchanges_.size();)
        if (exchanges_[i].pending.test())
            complete(i);
        else
            ++i;
}

void LaneReducer::start_final_buckets() {
    while (next_start_ < layout_.buckets() && missing_[next_start_] == 0 &&
           exchanges_.size() < static_cast<size_t>(config_.in_flight))
        start_exchange(next_start_++, round_);
}

void LaneReducer::make_room() {
    while (exchanges_.size() >= static_cast<size_t>(config_.in_flight))
        complete(0);
}

void LaneReducer::start_finished() {
    if (!in_slot_ || !last_of_lane_) return;
    while (next_start_ < layout_.buckets() && missing_[next_start_] == 0) {
        make_room();
        start_exchange(next_start_++, round_);
    }
}

void LaneReducer::start_all_buckets(int64_t round) {
    while (next_start_ < layout_.buckets()) {
        make_room();
        start_exchange(next_start_++, round);
    }
}

void LaneReducer::start_exchange(size_t b, int64_t round) {
    wait_until_free(b);
    const bool mine = has_lane(round);
    const int senders = plan_.lanes_in(round) - (mine ? 1 : 0);
    const FlatRange bucket = layout_.bucket(b), owned = layout_.owned(b, rank_, ranks_);
    Exchange exchange{.bucket = b, .round = round};
    if (mine) take_unit(layout_.unit_of(b), round);  // a unit that no gradient came for
    View out = mine ? lane_at(b, bucket) : View{};
    if (mine && config_.wire != DType::f32) {
        exchange.staged = Tensor::empty({bucket.elements()}, config_.wire, allocator_);
        kernels::cast(exchange.staged.out(), out, stream_);
        out = exchange.staged.out();
        // The own share is rounded like one that travels.
        kernels::cast(lane_at(b, owned), part_of(out, owned.begin - bucket.begin, owned.elements()),
                      stream_);
    }
    if (senders > 0)
        exchange.received = Tensor::empty({senders * owned.elements()}, config_.wire, allocator_);
    std::vector<ConstBytes> sends(static_cast<size_t>(ranks_));
    std::vector<Bytes> receives(static_cast<size_t>(ranks_));
    int64_t at = 0;
    for (int peer = 0; peer < ranks_; ++peer) {
        if (peer == rank_) continue;
        if (mine) {
            const FlatRange theirs = layout_.owned(b, peer, ranks_);
            const View piece = part_of(out, theirs.begin - bucket.begin, theirs.elements());
            sends[static_cast<size_t>(peer)] = bytes_of(ConstView(piece));
            statistics_.bytes_sent += static_cast<int64_t>(piece.bytes());
        }
        if (plan_.lane_of(peer, round)) {
            receives[static_cast<size_t>(peer)] =
                bytes_of(part_of(exchange.received.out(), at, owned.elements()));
            at += owned.elements();
        }
    }
    statistics_.bytes += bucket.elements() * static_cast<int64_t>(size_of(config_.wire));
    exchange.pending =
        communicator_.start_all_to_all("gradients, " + layout_.label(b), sends, receives);
    exchanges_.push_back(std::move(exchange));
    if (exchanges_.back().pending.test()) complete(exchanges_.size() - 1);
}

void LaneReducer::wait_until_free(size_t bucket) {
    for (size_t i = 0; i < exchanges_.size(); ++i)
        if (exchanges_[i].bucket == bucket) return complete(i);
}

void LaneReducer::complete(size_t index) {
    Exchange& exchange = exchanges_[index];
    exchange.pending.wait();
    fold(exchange);
    if (!lane_.keeps() && has_lane(exchange.round)) {
        const size_t unit = layout_.unit_of(exchange.bucket);
        if (--taken_[unit].buckets == 0) lane_.give_back(unit);
    }
    exchanges_.erase(exchanges_.begin() + static_cast<std::ptrdiff_t>(index));
}

std::vector<View> LaneReducer::lane_pieces(Exchange& exchange) {
    const FlatRange owned = layout_.owned(exchange.bucket, rank_, ranks_);
    if (config_.wire != DType::f32 && exchange.received.defined()) {
        Tensor wide = Tensor::empty(exchange.received.shape(), DType::f32, allocator_);
        kernels::cast(wide.out(), exchange.received.in(), stream_);
        exchange.received = wide;
    }
    std::vector<View> pieces;
    int64_t at = 0;
    for (int peer = 0; peer < plan_.lanes_in(exchange.round); ++peer) {
        if (peer == rank_) {
            pieces.push_back(lane_at(exchange.bucket, owned));
            continue;
        }
        pieces.push_back(part_of(exchange.received.out(), at, owned.elements()));
        at += owned.elements();
    }
    return pieces;
}

/// total = ((total + piece 0) + piece 1) + ..., pieces in lane order. Where the total shares memory
/// with the own piece (one round), the pieces before it are summed in the first one's memory.
void LaneReducer::fold(Exchange& exchange) {
    const View total = total_of(exchange.bucket);
    if (total.elements() == 0) return;
    const std::vector<View> pieces = lane_pieces(exchange);
    const bool shared = totals_are_in_lane() && has_lane(exchange.round);
    const size_t own = shared ? static_cast<size_t>(rank_) : 0;
    View sum = exchange.round == 0 ? pieces[0] : total;
    for (size_t i = exchange.round == 0 ? 1 : 0; i < pieces.size(); ++i) {
        const View out = i < own ? pieces[0] : total;
        kernels::add(out, sum, pieces[i], stream_);
        sum = out;
    }
    if (sum.data != total.data) kernels::cast(total, sum, stream_);
}

}  // namespace plinth::parallel
