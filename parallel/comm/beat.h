// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "parallel/comm/activity.h"

namespace plinth::parallel {

/// Text in a datagram: cut to its place, always ended by a zero.
template <size_t N>
struct ShortText {
    std::array<char, N> bytes{};

    ShortText() = default;
    ShortText(std::string_view text) {  // NOLINT(google-explicit-constructor): it is a string
        std::memcpy(bytes.data(), text.data(), std::min(text.size(), N - 1));
    }
    std::string_view view() const {
        return {bytes.data(), static_cast<size_t>(std::ranges::find(bytes, '\0') - bytes.begin())};
    }
};

/// What a rank says of itself several times a second: one datagram, in the memory layout of the
/// program that all ranks run.
struct Beat {
    static constexpr uint64_t format = 0x504c4e5448423031;  // "PLNTHB01"
    static constexpr size_t most_groups = 24;
    static constexpr size_t most_pairs = 12;

    enum class Kind : int32_t {
        alive,
        left,    ///< the last one: the rank's work is done
        failed,  ///< the last one: the rank ends by an error of its own, which it prints
        end,     ///< a hang was found and is printed: the receiver ends
    };
    struct Call {
        uint64_t group = 0;
        int64_t sequence = 0;  ///< 0: a message
        int64_t number = 0;    ///< of a message, see MessageEnd
        int32_t peer = -1;     ///< of a message: rank in the group
        int32_t sends = 0;
        ShortText<24> group_name;
        ShortText<56> label;
    };
    struct Past {
        int64_t sequence = 0;  ///< 0: none
        ShortText<40> label;
    };
    struct Group {
        uint64_t id = 0;
        int64_t begun = 0;
        int64_t size = 0;
    };
    struct Pair {
        uint64_t group = 0;
        int64_t peer = 0;
        int64_t sent = 0;
        int64_t received = 0;
    };

    uint64_t magic = format;
    std::array<uint64_t, 2> token{};  ///< of the job: strays are not heard
    Kind kind = Kind::alive;
    int32_t rank = 0;
    uint64_t number = 0;  ///< rises with each beat of the rank
    int64_t step = 0;
    Phase phase = Phase::start;
    uint8_t waits = 0;  ///< 1: in a call; not a bool, for it comes from outside
    float waited = 0;   ///< seconds in that wait
    float quiet = 0;    ///< seconds without progress; 0 while it waits
    float limit = 0;    ///< seconds without progress that are none too many
    /// The neighbour that it does not hear any more, and for how long; -1: it hears it.
    int32_t unheard = -1;
    float unheard_seconds = 0;
    Call call;          ///< the one that it waits for, else the newest that it has begun
    int32_t pairs = 0;  ///< over most_pairs: these are not all
    std::array<Pair, most_pairs> pair{};
    int32_t groups = 0;
    /// The one that it waits in, then those used last: most_groups of them.
    std::array<Group, most_groups> group{};
    /// Calls of the group that it waits in, the newest last.
    std::array<Past, Activity::history> past{};

    /// False for what cannot have been sent by a rank of a world of `ranks`.
    bool is_sound(int ranks) const {
        return magic == format && kind >= Kind::alive && kind <= Kind::end && rank >= 0 &&
               rank < ranks && static_cast<size_t>(phase) < phase_count && groups >= 0 &&
               groups <= static_cast<int32_t>(most_groups) && unheard >= -1 && unheard < ranks &&
               pairs >= 0 && call.group_name.bytes.back() == '\0' &&
               call.label.bytes.back() == '\0' &&
               std::ranges::all_of(past, [](const Past& p) { return p.label.bytes.back() == 0; });
    }
};
static_assert(sizeof(Beat) < 1400, "a beat is one datagram that no network cuts");

/// The part of a beat that tells where the rank is. Where there are too many groups, those used
/// longest ago are left out. (A pipeline joins groups for each of its chunks after the world: by
/// the order of joining it would be the world that is left out.)
Beat beat_of(const Activity::Look& look);

}  // namespace plinth::parallel
