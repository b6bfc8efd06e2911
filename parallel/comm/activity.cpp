// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/activity.h"

#include <algorithm>

namespace plinth::parallel {

std::string_view name_of(Phase phase) {
    constexpr std::array<std::string_view, phase_count> names{
        "start",    "data",   "forward", "backward", "reduce",        "optimizer",
        "evaluate", "sample", "save",    "log",      "between phases"};
    return names[static_cast<size_t>(phase)];
}

bool may_wait_for_storage(Phase phase) {
    return phase == Phase::start || phase == Phase::data || phase == Phase::save ||
           phase == Phase::log || phase == Phase::other;
}

void Activity::count(std::shared_ptr<const std::atomic<uint64_t>> work) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
}

Activity::Group* Activity::find(uint64_t group) {
    const auto found = std::ranges::find(groups_, group, &Group::id);
    return found == groups_.end() ? nullptr : &*found;
}

void Activity::join(uint64_t group, const std::string& name, int size) {
    const std::lock_guard lock(mutex_);
    groups_.push_back({.id = group, .name = name, .size = size});
}

void Activity::leave(uint64_t group) {
    const std::lock_guard lock(mutex_);
    std::erase_if(groups_, [group](const Group& one) { return one.id == group; });
}

void Activity::begin(uint64_t group, int64_t sequence, int64_t last, const std::string& label) {
    tick();
    const std::lock_guard lock(mutex_);
    Group* found = find(group);
    if (!found) return;
    found->begun = last;
    found->used = ++uses_;
    newest_ = {.group = group, .group_name = found->name, .sequence = sequence, .label = label};
    std::rotate(found->calls.begin(), found->calls.begin() + 1, found->calls.end());
    found->calls.back() = newest_;
}

void Activity::begin_message(uint64_t group, const MessageEnd& message) {
    tick();
    const std::lock_guard lock(mutex_);
    Group* found = find(group);
    if (!found) return;
    found->used = ++uses_;
    auto pair = std::ranges::find(found->pairs, message.peer, &Pair::peer);
    if (pair == found->pairs.end()) pair = found->pairs.insert(pair, {.peer = message.peer});
    (message.sends ? pair->sent : pair->received) = message.number;
    std::rotate(pair, pair + 1, found->pairs.end());
}

void Activity::wait(uint64_t group, int64_t sequence, const std::string& label,
                    const MessageEnd& message) {
    const std::lock_guard lock(mutex_);
    const Group* found = find(group);
    waits_ = {.group = group,
              .group_name = found ? found->name : "",
              .sequence = sequence,
              .label = label,
              .message = message};
    waits_since_ = std::chrono::steady_clock::now();
}

void Activity::go_on() {
    tick();
    const std::lock_guard lock(mutex_);
    waits_.reset();
}

Activity::Look Activity::look() const {
    const std::lock_guard lock(mutex_);
    Look look{.phase = phase_.load(std::memory_order_relaxed),
              .step = step_.load(std::memory_order_relaxed),
              .ticks = ticks_.load(std::memory_order_relaxed),
              .waits = waits_,
              .newest = newest_,
              .groups = groups_};
    for (const auto& work : work_)
        look.ticks += work->load(std::memory_order_relaxed);
    if (waits_) look.waited = std::chrono::steady_clock::now() - waits_since_;
    return look;
}

}  // namespace plinth::parallel
