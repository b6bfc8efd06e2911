// SPDX-License-Identifier: Apache-2.0
#include "parallel/buckets.h"

#include <algorithm>

namespace plinth::parallel {

namespace {
/// A parameter that no layer declared a use of still has a gradient: zero.
int uses_of(const core::Parameter& parameter) {
    return std::max(1, parameter.uses());
}
}  // namespace

BucketLayout::BucketLayout(std::span<core::Parameter* const> parameters, int64_t bucket_bytes) {
    const int64_t size =
        std::max<int64_t>(1, bucket_bytes / (alignment * static_cast<int64_t>(sizeof(float)))) *
        alignment;
    const std::vector<core::Parameter*> backward(parameters.rbegin(), parameters.rend());
    for (core::Parameter* parameter : backward)
        for (int use = uses_of(*parameter) - 1; use > 0; --use) {
            place(*parameter, use);
            close_unit(size);
            units_.back().holds_weights = false;
            units_.back().is_repeated = true;
        }
    for (core::Parameter* parameter : backward) {
        const bool is_alone = uses_of(*parameter) > 1;
        if (is_alone) close_unit(size);
        place(*parameter, 0);
        const int64_t open = units_.empty() ? 0 : units_.back().range.end;
        if (is_alone || elements_ - open >= size) close_unit(size);
        if (is_alone) units_.back().is_repeated = true;
    }
    close_unit(size);
}

void BucketLayout::place(core::Parameter& parameter, int use) {
    const int64_t elements = parameter.local_elements();
    CHECK(elements > 0, "{}: a parameter without elements", parameter.name());
    std::vector<size_t>& uses = index_[&parameter];
    uses.resize(static_cast<size_t>(uses_of(parameter)));
    uses[static_cast<size_t>(use)] = entries_.size();
    entries_.push_back(
        {.parameter = &parameter, .use = use, .range = {elements_, elements_ + elements}});
    // Ranks of a tensor group sum what they own of the parameters that they hold alike, so these
    // must lie in the same places on all of them.
    elements_ += (parameter.room() + alignment - 1) / alignment * alignment;
}

/// Makes what was placed since the last unit a unit, and cuts it.
void BucketLayout::close_unit(int64_t bucket_elements) {
    Unit unit;
    if (!units_.empty()) unit = units_.back();
    unit = {.range = {unit.range.end, elements_},
            .first_bucket = unit.end_bucket,
            .first_entry = unit.end_entry,
            .end_entry = entries_.size()};
    if (unit.range.elements() == 0) return;
    const int64_t blocks = unit.range.elements() / alignment;
    const int64_t parts = (unit.range.elements() + bucket_elements - 1) / bucket_elements;
    for (int64_t part = 0; part < parts; ++part) {
        buckets_.push_back({unit.range.begin + blocks * part / parts * alignment,
                            unit.range.begin + blocks * (part + 1) / parts * alignment});
        unit_of_.push_back(units_.size());
    }
    unit.end_bucket = buckets_.size();
    labels_.resize(buckets_.size());
    for (size_t e = unit.first_entry; e < unit.end_entry; ++e) {
        Entry& entry = entries_[e];
        entry.unit = units_.size();
        size_t b = unit.first_bucket;
        while (buckets_[b].end <= entry.range.begin)
            ++b;
        entry.first_bucket = entry.last_bucket = b;
        for (; b < unit.end_bucket && buckets_[b].begin < entry.range.end; ++b) {
            entry.last_bucket = b;
            if (labels_[b].empty())
                labels_[b] = fmt::format("bucket {} ({} ..)", b, entry.parameter->name());
        }
    }
    for (size_t b = unit.first_bucket; b < unit.end_bucket; ++b)
        if (labels_[b].empty()) labels_[b] = fmt::format("bucket {} (padding)", b);
    units_.push_back(unit);
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
    // Buckets of fewer blocks than ranks have some ranks own nothing: in turn others. Uses of a
    // parameter are cut alike, wherever their unit begins.
    const Unit& unit = units_[unit_of_[b]];
    const auto turn = static_cast<int64_t>(unit.is_repeated ? b - unit.first_bucket : b);
    const int64_t place = (rank + turn) % ranks;
    return {bucket.begin + blocks * place / ranks * alignment,
            bucket.begin + blocks * (place + 1) / ranks * alignment};
}

std::vector<BucketLayout::Piece> BucketLayout::owned(const core::Parameter& parameter, int use,
                                                     int rank, int ranks) const {
    const Entry& entry = entries_[entry_of(parameter, use)];
    std::vector<Piece> pieces;
    for (size_t b = entry.first_bucket; b <= entry.last_bucket; ++b) {
        const FlatRange mine = owned(b, rank, ranks);
        const FlatRange flat{std::max(mine.begin, entry.range.begin),
                             std::min(mine.end, entry.range.end)};
        if (flat.begin >= flat.end) continue;
        const core::optim::ParameterRange range{entry.parameter, flat.begin - entry.range.begin,
                                                flat.end - entry.range.begin};
        // Neighbours in the buffer are neighbours among the rank's totals too.
        if (!pieces.empty() && pieces.back().flat.end == flat.begin) {
            pieces.back().range.end = range.end;
            pieces.back().flat.end = flat.end;
        } else {
            pieces.push_back({.range = range, .flat = flat, .bucket = b});
        }
    }
    return pieces;
}

}  // namespace plinth::parallel
