// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/beat.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace plinth::parallel {

static_assert(std::is_trivially_copyable_v<Beat>);

Beat beat_of(const Activity::Look& look) {
    Beat beat;
    beat.step = look.step;
    beat.phase = look.phase;
    beat.waits = look.waits ? 1 : 0;
    beat.waited = static_cast<float>(look.waited.count());
    const CallPlace& call = look.waits ? *look.waits : look.newest;
    beat.call = {.group = call.group,
                 .sequence = call.sequence,
                 .number = call.message.number,
                 .peer = call.message.peer,
                 .sends = call.message.sends ? 1 : 0,
                 .group_name = std::string_view(call.group_name),
                 .label = std::string_view(call.label)};
    std::vector<const Activity::Group*> groups;
    for (const Activity::Group& group : look.groups)
        groups.push_back(&group);
    const auto is_first = [&](const Activity::Group* one, const Activity::Group* other) {
        const bool waits_in_one = look.waits && look.waits->group == one->id;
        const bool waits_in_other = look.waits && look.waits->group == other->id;
        return waits_in_one != waits_in_other ? waits_in_one : one->used > other->used;
    };
    std::ranges::stable_sort(groups, is_first);
    const size_t count = std::min(groups.size(), Beat::most_groups);
    for (size_t i = 0; i < count; ++i) {
        const Activity::Group& group = *groups[i];
        beat.group[i] = {.id = group.id, .begun = group.begun, .size = group.size};
        for (size_t k = group.pairs.size(); k-- > 0; ++beat.pairs)
            if (const auto at = static_cast<size_t>(beat.pairs); at < beat.pair.size())
                beat.pair[at] = {.group = group.id,
                                 .peer = group.pairs[k].peer,
                                 .sent = group.pairs[k].sent,
                                 .received = group.pairs[k].received};
        if (beat.waits == 0 || group.id != beat.call.group) continue;
        for (size_t k = 0; k < group.calls.size(); ++k)
            beat.past[k] = {.sequence = group.calls[k].sequence,
                            .label = std::string_view(group.calls[k].label)};
    }
    beat.groups = static_cast<int32_t>(count);
    return beat;
}

}  // namespace plinth::parallel
