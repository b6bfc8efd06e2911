// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/memory_holders.h"

#include <algorithm>

namespace plinth {

void MemoryHolders::add(MemoryHolder& holder) {
    const std::lock_guard lock(mutex_);
    holders_.push_back(&holder);
}

void MemoryHolders::remove(const MemoryHolder& holder) {
    const std::lock_guard lock(mutex_);
    std::erase(holders_, &holder);
}

size_t MemoryHolders::give_back() {
    const std::lock_guard lock(mutex_);
    size_t bytes = 0;
    for (MemoryHolder* holder : holders_)
        bytes += holder->give_back();
    return bytes;
}

std::vector<HeldMemory> MemoryHolders::held() const {
    const std::lock_guard lock(mutex_);
    std::vector<HeldMemory> all;
    for (const MemoryHolder* holder : holders_)
        for (HeldMemory& more : holder->held()) {
            if (more.bytes == 0) continue;
            const auto same = std::ranges::find(all, more.kind, &HeldMemory::kind);
            if (same == all.end())
                all.push_back(std::move(more));
            else
                same->bytes += more.bytes;
        }
    std::ranges::stable_sort(all, std::ranges::greater{}, &HeldMemory::bytes);
    return all;
}

void MemoryHolders::advise(const void* owner, Advice advice) {
    const std::lock_guard lock(mutex_);
    advice_.emplace_back(owner, std::move(advice));
}

void MemoryHolders::forget(const void* owner) {
    const std::lock_guard lock(mutex_);
    std::erase_if(advice_, [&](const auto& entry) { return entry.first == owner; });
}

std::string MemoryHolders::report(size_t asked, size_t available) const {
    MemoryShortage shortage{.asked = asked, .available = available};
    std::vector<std::string> kinds;
    for (const HeldMemory& one : held()) {
        shortage.held += one.bytes;
        kinds.push_back(fmt::format("{} {}", one.kind, memory_size_text(one.bytes)));
    }
    std::string text = kinds.empty()
                           ? "; this process holds nothing of it"
                           : fmt::format("; this process holds {} of it: {}",
                                         memory_size_text(shortage.held), fmt::join(kinds, ", "));
    Advice advice;
    {
        const std::lock_guard lock(mutex_);
        if (!advice_.empty()) advice = advice_.back().second;
    }
    if (!advice) return text;
    try {
        if (const std::string more = advice(shortage); !more.empty()) text += "; " + more;
    } catch (const std::exception&) {  // there may be no memory for it: the message goes on without
    }
    return text;
}

std::string memory_size_text(size_t bytes) {
    constexpr double mib = 1 << 20, gib = 1 << 30;
    const auto size = static_cast<double>(bytes);
    return size < gib ? fmt::format("{:.3f} MiB", size / mib)
                      : fmt::format("{:.3f} GiB", size / gib);
}

}  // namespace plinth
