// SPDX-License-Identifier: Apache-2.0
#include "parallel/zero/sharded_weights.h"

#include <algorithm>
#include <exception>

namespace plinth::parallel {

using core::Parameter;
using core::Tensor;

ShardedWeights::ShardedWeights(std::span<Parameter* const> parameters, const BucketLayout& layout,
                               Communicator& data, CachingAllocator& allocator, Stream& stream,
                               WeightsOptions options)
    : layout_(layout),
      bytes_(layout, options.compute),
      group_(data.split(0, "weights")),
      allocator_(allocator),
      stream_(stream),
      options_(std::move(options)),
      working_(data.size()),
      parameters_of_(layout.units().size()),
      units_(layout.units().size()) {
    const int rank = group_->rank(), ranks = group_->size();
    int64_t bytes = 0;
    for (size_t b = 0; b < layout.buckets(); ++b) {
        shard_at_.push_back(bytes);
        bytes += bytes_.bytes_of(layout.owned(b, rank, ranks));
    }
    shard_ = Tensor::empty({bytes / 4}, DType::f32, allocator);
    allocator.set_zero(shard_.out().data, shard_.out().bytes());  // padding travels
    owned_ = std::make_unique<OwnedWeights>(
        parameters, bytes_, rank, ranks, [this](size_t b) { return shard_at(b); }, allocator,
        options_.offload);
    for (Parameter* parameter : parameters) {
        const size_t unit = layout.entries()[layout.entry_of(*parameter, 0)].unit;
        places_[parameter].unit = unit;
        parameters_of_[unit].push_back(parameter);
        parameter->set_source(this);
    }
}

ShardedWeights::~ShardedWeights() {
    for (auto& [parameter, place] : places_)
        const_cast<Parameter*>(parameter)->set_source(nullptr);
    if (std::uncaught_exceptions() > 0) return;
    try {
        settle();
        give_all_back();
    } catch (...) {  // its peers end too; the group is not used again
    }
}

ShardedWeights::Place& ShardedWeights::place_of(const Parameter& parameter) {
    const auto found = places_.find(&parameter);
    CHECK(found != places_.end(), "{}: not among these weights", parameter.name());
    return found->second;
}

std::byte* ShardedWeights::shard_at(size_t bucket) {
    return static_cast<std::byte*>(shard_.out().data) + shard_at_[bucket];
}

// --- which units have memory --------------------------------------------------------------------

void ShardedWeights::on(const Event& event) {
    if (recording_) events_.push_back(event);
    if (event.is_acquire) move_to(event.unit);
    units_[event.unit].readers += event.is_acquire ? 1 : -1;
}

/// The unit is read next. Depends on the order of acquires alone: no rank may do other gathers than
/// its peers because of who reads for how long.
void ShardedWeights::move_to(size_t u) {
    if (!recent_.empty() && recent_.front() == u) return;
    find_position(u);
    std::erase(recent_, u);
    recent_.insert(recent_.begin(), u);
    recent_.resize(std::min(recent_.size(), static_cast<size_t>(options_.ahead) + 1));
    const std::vector<size_t> kept = units_to_keep();
    for (size_t other = 0; other < units_.size(); ++other)
        if (units_[other].wanted && std::ranges::find(kept, other) == kept.end())
            give_back(units_[other]);
    for (const size_t each : kept)
        if (!units_[each].wanted) start_gather(each);
}

/// Where in the learned order the step to this unit is; first where it was expected.
void ShardedWeights::find_position(size_t u) {
    if (position_ && *position_ + 1 < order_.size() && order_[*position_ + 1] == u) {
        ++*position_;
        return;
    }
    position_.reset();
    if (!order_.empty() && order_[0] == u) position_ = 0;
    for (size_t i = 1; i < order_.size() && !position_; ++i)
        if (order_[i] == u && !recent_.empty() && order_[i - 1] == recent_.front()) position_ = i;
}

std::vector<size_t> ShardedWeights::units_to_keep() const {
    if (!position_) return recent_;
    const auto first = order_.begin() + static_cast<std::ptrdiff_t>(*position_);
    const auto count = std::min<std::ptrdiff_t>(options_.ahead + 1, order_.end() - first);
    return {first, first + count};
}

void ShardedWeights::start_gather(size_t u) {
    const int rank = group_->rank(), ranks = group_->size();
    const BucketLayout::Unit& place = layout_.units()[u];
    Unit& unit = units_[u];
    unit.wanted = true;
    if (options_.before_gather) options_.before_gather();
    std::byte* memory = nullptr;
    if (is_working()) {
        // One that is still read keeps its memory: the same bytes are written there.
        if (!unit.memory.defined())
            unit.memory = Tensor::empty({bytes_.bytes_of(place.range) / 4}, DType::f32, allocator_);
        memory = static_cast<std::byte*>(unit.memory.out().data);
    }
    for (size_t b = place.first_bucket; b < place.end_bucket; ++b) {
        const int64_t mine = bytes_.bytes_of(layout_.owned(b, rank, ranks));
        std::vector<ConstBytes> sends(static_cast<size_t>(ranks));
        std::vector<Bytes> receives(static_cast<size_t>(ranks));
        for (int peer = 0; peer < ranks; ++peer) {
            if (peer < working_ || peer == rank)
                sends[static_cast<size_t>(peer)] = {shard_at(b), static_cast<size_t>(mine)};
            if (peer < working_ && peer != rank) bytes_sent_ += mine;
            if (!memory) continue;
            const FlatRange theirs = layout_.owned(b, peer, ranks);
            receives[static_cast<size_t>(peer)] = {
                memory + bytes_.bytes_of({place.range.begin, theirs.begin}),
                static_cast<size_t>(bytes_.bytes_of(theirs))};
        }
        (memory ? unit.gathers : joined_)
            .push_back(group_->start_all_to_all("weights, " + layout_.label(b), sends, receives));
    }
    for (Parameter* parameter : parameters_of_[u]) {
        if (!memory) break;
        const BucketLayout::Entry& entry = layout_.entries()[layout_.entry_of(*parameter, 0)];
        place_of(*parameter).weights =
            parameter->weights_at(memory + bytes_.bytes_of({place.range.begin, entry.range.begin}),
                                  parameter->read_as(options_.compute), allocator_.device());
    }
}

void ShardedWeights::give_back(Unit& unit) {
    unit.wanted = false;
    for (Pending& gather : unit.gathers)
        gather.wait();
    unit.gathers.clear();
    if (unit.readers == 0) unit.memory = {};
}

void ShardedWeights::give_all_back() {
    for (Unit& unit : units_)
        if (unit.wanted) give_back(unit);
    recent_.clear();
    position_.reset();
}

// --- operations ---------------------------------------------------------------------------------

const Tensor& ShardedWeights::acquire(Parameter& parameter, DType dtype) {
    Place& place = place_of(parameter);
    on({place.unit, /*is_acquire=*/true});
    for (Pending& gather : units_[place.unit].gathers)
        gather.wait();
    units_[place.unit].gathers.clear();
    CHECK(place.weights.dtype() == dtype, "{}: wanted as {}, held as {}", parameter.name(),
          name_of(dtype), name_of(place.weights.dtype()));
    return place.weights;
}

void ShardedWeights::release(Parameter& parameter) {
    Unit& unit = units_[place_of(parameter).unit];
    on({place_of(parameter).unit, /*is_acquire=*/false});
    if (unit.readers == 0 && !unit.wanted) unit.memory = {};
}

// --- micro-batches ------------------------------------------------------------------------------

void ShardedWeights::masters_changed() {
    settle();
    give_all_back();
    owned_->round(stream_);
}

void ShardedWeights::settle() {
    for (Pending& send : joined_)
        send.wait();
    joined_.clear();
}

void ShardedWeights::begin_micro_batch(int working) {
    give_all_back();
    working_ = working;
    recording_ = order_.empty();
}

void ShardedWeights::end_micro_batch() {
    give_all_back();
    for (const auto& [parameter, place] : places_)
        CHECK(parameter->readers() == 0, "{}: acquired and not released in a micro-batch",
              parameter->name());
    working_ = group_->size();
    if (!recording_) return;
    recording_ = false;
    for (const Event& event : events_)
        if (event.is_acquire && (order_.empty() || order_.back() != event.unit))
            order_.push_back(event.unit);
}

/// Does the gathers of a micro-batch without its computation: this rank only sends.
void ShardedWeights::join_micro_batch(int working) {
    CHECK(!order_.empty(), "a rank without a first micro-batch");
    begin_micro_batch(working);
    for (const Event& event : events_)
        on(event);
    end_micro_batch();
}

}  // namespace plinth::parallel
