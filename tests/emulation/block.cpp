// SPDX-License-Identifier: Apache-2.0
#include "tests/emulation/block.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace emulation {

namespace {

namespace context = boost::context;

constexpr size_t stack_bytes = size_t{256} << 10;
constexpr std::byte pattern{0xFF};  // NaN in every floating-point type

/// A fiber that runs one thread after another.
class Fiber {
  public:
    Fiber() {
        fiber_ = context::fiber(std::allocator_arg, context::fixedsize_stack(stack_bytes),
                                [this](context::fiber&& caller) {
                                    caller_ = std::move(caller);
                                    while (true) {
                                        (*body_)();
                                        is_done_ = true;
                                        leave();
                                    }
                                    return std::move(caller_);
                                });
    }
    void begin(const std::function<void()>& body) {
        body_ = &body;
        is_done_ = false;
    }
    void go_on() { fiber_ = std::move(fiber_).resume(); }
    void leave() { caller_ = std::move(caller_).resume(); }
    bool is_done() const { return is_done_; }

  private:
    context::fiber fiber_, caller_;
    const std::function<void()>* body_ = nullptr;
    bool is_done_ = true;
};

/// A meeting of threads; `turn` changes when all have come.
struct Meeting {
    uint64_t turn = 0;
    unsigned arrived = 0, expected = 0;
    bool is_any = false, was_any = false;
};

struct Warp {
    uint32_t alive = 0;
    /// What arrives for one turn stays until all lanes have come to the next.
    struct Exchange {
        uint64_t turn = 0;
        const char* what = nullptr;
        Lanes lanes[2];

        Lanes& arriving() { return lanes[turn % 2]; }
        const Lanes& arriving() const { return lanes[turn % 2]; }
    };
    Exchange of_all;
    std::map<uint32_t, Exchange> of_groups;  ///< by mask: lanes that diverged meet apart

    Exchange& exchange(uint32_t mask) { return mask == ~0u ? of_all : of_groups[mask]; }
};

struct Block {
    Place place;
    std::vector<Fiber*> fibers;
    unsigned current = 0, alive = 0;
    uint64_t progress = 0;  ///< grows whenever a thread got further
    Meeting all;
    std::map<unsigned, Meeting> named;
    std::vector<Warp> warps;
    std::byte* shared = nullptr;
    std::set<const void*> entered;
    std::string error;
};

Block* block = nullptr;  ///< the machine runs one at a time

void set_current(unsigned thread) {
    block->current = thread;
    const Index3& threads = block->place.threads;
    block->place.thread = {thread % threads.x, thread / threads.x % threads.y,
                           thread / threads.x / threads.y};
}

/// Lets the other threads go on.
void leave() {
    const unsigned thread = block->current;
    block->fibers[thread]->leave();
    set_current(thread);
}

template <typename Condition>
void wait_until(Condition&& is_met) {
    while (!is_met())
        leave();
    ++block->progress;
}

void finish(Meeting& meeting) {
    meeting.was_any = meeting.is_any;
    meeting.is_any = false;
    meeting.arrived = 0;
    ++meeting.turn;
}

void finish(Warp::Exchange& exchange) {
    ++exchange.turn;
    exchange.arriving().present = 0;
}

bool meet(Meeting& meeting, unsigned expected, bool is_true) {
    meeting.expected = expected;
    meeting.is_any |= is_true;
    const uint64_t turn = meeting.turn;
    ++block->progress;
    if (++meeting.arrived == expected) finish(meeting);
    wait_until([&] { return meeting.turn != turn; });
    return meeting.was_any;
}

bool is_complete(const Warp& warp, uint32_t mask, const Warp::Exchange& exchange) {
    const uint32_t present = exchange.arriving().present;
    return present != 0 && present == (mask & warp.alive);
}

/// A thread has returned: nobody waits for it any more.
void retire(unsigned thread) {
    ++block->progress;
    --block->alive;
    Warp& warp = block->warps[thread / 32];
    warp.alive &= ~(1u << thread % 32);
    if (is_complete(warp, ~0u, warp.of_all)) finish(warp.of_all);
    for (auto& [mask, exchange] : warp.of_groups)
        if (is_complete(warp, mask, exchange)) finish(exchange);
    if (block->all.arrived > 0 && block->all.arrived == block->alive) finish(block->all);
}

std::string waiting_text() {
    std::string text = "threads wait for what never comes:";
    if (block->all.arrived > 0)
        text += " " + std::to_string(block->all.arrived) + " of " + std::to_string(block->alive) +
                " at __syncthreads;";
    for (const auto& [number, meeting] : block->named)
        if (meeting.arrived > 0)
            text += " " + std::to_string(meeting.arrived) + " of " +
                    std::to_string(meeting.expected) + " at barrier " + std::to_string(number) +
                    ";";
    for (size_t i = 0; i < block->warps.size(); ++i) {
        const auto add = [&](const Warp::Exchange& exchange) {
            if (exchange.arriving().present != 0)
                text += " warp " + std::to_string(i) + " at " + exchange.what + ";";
        };
        add(block->warps[i].of_all);
        for (const auto& [mask, exchange] : block->warps[i].of_groups)
            add(exchange);
    }
    return text;
}

/// Lets the thread run to where it waits, or to its end.
void go_on(unsigned thread) {
    Fiber& fiber = *block->fibers[thread];
    if (!block->error.empty() || fiber.is_done()) return;
    set_current(thread);
    fiber.go_on();
    if (block->error.empty() && fiber.is_done()) retire(thread);
}

/// Lets the warp's threads run until all of them wait for other warps.
void go_on_alone(unsigned warp) {
    const auto end = std::min(static_cast<unsigned>(block->fibers.size()), 32 * warp + 32);
    for (bool is_further = true; is_further;) {
        const uint64_t before = block->progress;
        for (unsigned thread = 32 * warp; thread < end; ++thread)
            go_on(thread);
        is_further = block->error.empty() && block->progress != before;
    }
}

/// Fibers are kept: making one costs more than most threads run.
std::deque<Fiber>& kept_fibers() {
    static std::deque<Fiber> fibers;
    return fibers;
}

}  // namespace

const Place& place() {
    return block->place;
}

std::string run_block(const Place& first, size_t shared_bytes, Order order,
                      const std::function<void()>& body) {
    Block now;
    now.place = first;
    const unsigned threads = first.threads.x * first.threads.y * first.threads.z;
    auto& fibers = kept_fibers();
    while (fibers.size() < threads)
        fibers.emplace_back();
    now.warps.resize((threads + 31) / 32);
    for (unsigned i = 0; i < threads; ++i) {
        now.fibers.push_back(&fibers[i]);
        now.warps[i / 32].alive |= 1u << i % 32;
        fibers[i].begin(body);
    }
    now.alive = threads;
    std::vector<std::byte> shared(shared_bytes + 128, pattern);
    void* aligned = shared.data();
    size_t room = shared.size();
    now.shared = static_cast<std::byte*>(std::align(128, shared_bytes, aligned, room));
    block = &now;
    std::vector<unsigned> turns(threads), warp_turns(now.warps.size());
    std::iota(turns.begin(), turns.end(), 0u);
    std::iota(warp_turns.begin(), warp_turns.end(), 0u);
    if (order == Order::descending) std::reverse(turns.begin(), turns.end());
    std::mt19937 random(first.block.x + 1);
    while (now.alive > 0 && now.error.empty()) {
        const uint64_t before = now.progress;
        if (order == Order::warps) {
            std::shuffle(warp_turns.begin(), warp_turns.end(), random);
            for (const unsigned warp : warp_turns)
                go_on_alone(warp);
        } else {
            if (order == Order::shuffled) std::shuffle(turns.begin(), turns.end(), random);
            for (const unsigned thread : turns)
                go_on(thread);
        }
        if (now.error.empty() && now.progress == before) now.error = waiting_text();
    }
    block = nullptr;
    if (!now.error.empty()) fibers.clear();  // some stand in the middle of a kernel
    return now.error;
}

void* dynamic_shared() {
    return block->shared;
}

void enter_shared(void* variable, size_t bytes) {
    if (block->entered.insert(variable).second)
        std::memset(variable, static_cast<int>(pattern), bytes);
}

void wait_for_block() {
    meet(block->all, block->alive, false);
}

bool any_of_block(bool is_true) {
    return meet(block->all, block->alive, is_true);
}

void wait_for_threads(unsigned barrier, unsigned threads) {
    meet(block->named[barrier], threads, false);
}

unsigned lane() {
    return block->current % 32;
}

const Lanes& exchange(uint32_t mask, const char* what, const void* value, size_t bytes) {
    Warp& warp = block->warps[block->current / 32];
    Warp::Exchange& here = warp.exchange(mask);
    Lanes& lanes = here.arriving();
    if (bytes > Lanes::most_bytes || !(mask >> lane() & 1)) {
        block->error = std::string(what) + ": lane " + std::to_string(lane()) + " of mask " +
                       std::to_string(mask) + ", " + std::to_string(bytes) + " bytes";
        while (true)
            leave();
    }
    if (lanes.present != 0 && here.what != what && std::strcmp(here.what, what) != 0) {
        block->error = std::string("lanes of a warp meet at ") + here.what + " and at " + what;
        while (true)
            leave();
    }
    here.what = what;
    if (bytes > 0) std::memcpy(lanes.values[lane()].data(), value, bytes);
    lanes.present |= 1u << lane();
    const uint64_t turn = here.turn;
    ++block->progress;
    if (is_complete(warp, mask, here)) finish(here);
    wait_until([&] { return here.turn != turn; });
    return lanes;
}

}  // namespace emulation
