// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace plinth::parallel {

/// Which rank computes which micro-batch slots of a step, and in which order their gradients are
/// added (docs/numerics.md): slot gradients are folded into lanes, lanes into the total, both in
/// index order. Slots and lanes fix the bits; ranks only divide the lanes. Pure arithmetic.
struct LanePlan {
    int64_t slots = 1;  ///< micro-batches in the global batch (G)
    int64_t lanes = 1;  ///< R
    int ranks = 1;      ///< of the data axis (P)

    /// Refuses (kind config) lanes outside 1..slots, and more ranks than lanes, naming train.lanes.
    void validate() const;

    /// Lane j holds the slots [lane_begin(j), lane_begin(j + 1)).
    int64_t lane_begin(int64_t lane) const { return lane * slots / lanes; }
    int64_t lane_of_slot(int64_t slot) const { return ((slot + 1) * lanes - 1) / slots; }

    /// In round k rank r computes lane k * ranks + r, if there is one.
    int64_t rounds() const { return (lanes + ranks - 1) / ranks; }
    std::optional<int64_t> lane_of(int rank, int64_t round) const;
    /// Ranks 0 .. this - 1 have a lane in that round.
    int lanes_in(int64_t round) const;
    /// A rank's slots in the order in which it computes them.
    std::vector<int64_t> slots_of(int rank) const;
    /// The same with gaps: in each round as many entries as the longest lane has slots, so that
    /// entry i is of the same round on every rank. A pipeline schedule runs over these: ranks that
    /// leave entries out wait for no round that another has not come to.
    std::vector<std::optional<int64_t>> aligned_slots_of(int rank) const;
    /// Share of rank time without work because the slots cannot be divided evenly, 0 to 1.
    double idle_share() const;
};

}  // namespace plinth::parallel
