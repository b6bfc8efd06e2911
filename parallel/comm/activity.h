// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plinth::parallel {

/// What a rank is busy with, for hang reports.
enum class Phase : uint8_t {
    start,
    data,
    forward,
    backward,
    reduce,
    optimizer,
    evaluate,
    sample,
    save,
    log,
    other,  ///< between the others
};
inline constexpr size_t phase_count = 11;

std::string_view name_of(Phase phase);

/// True where a rank that stands still may well be waiting for storage: nobody can tell how long
/// that takes. Work that no mark names counts among it.
bool may_wait_for_storage(Phase phase);

/// One end of a message between two ranks of a group.
struct MessageEnd {
    int peer = -1;  ///< rank in the group; -1: no message
    bool sends = false;
    int64_t number = 0;  ///< from 1, of the messages that go this way between the two
};

/// A call of a group of ranks. The group's number is the same on all its members, and only there.
struct CallPlace {
    uint64_t group = 0;
    std::string group_name;
    int64_t sequence = 0;  ///< of a collective; 0 for a message
    std::string label;
    MessageEnd message = {};
};

/// Where one rank is. The thread that computes writes it as it goes on, any thread may look.
class Activity {
  public:
    /// Calls of a group that are remembered: a rank in the wrong call may come through it and wait
    /// only in a later one.
    static constexpr size_t history = 4;

    /// Messages that have begun between this rank and another one.
    struct Pair {
        int peer = 0;
        int64_t sent = 0;
        int64_t received = 0;
    };
    struct Group {
        uint64_t id = 0;
        std::string name;
        int size = 0;
        int64_t begun = 0;  ///< number of the newest collective
        /// The newest calls, oldest first; no label where there was none yet.
        std::array<CallPlace, history> calls = {};
        std::vector<Pair> pairs = {};  ///< the one used last at the end
        uint64_t used = 0;             ///< rises with each call over all groups; 0: none yet
    };
    struct Look {
        Phase phase = Phase::start;
        int64_t step = 0;
        uint64_t ticks = 0;
        std::optional<CallPlace> waits;  ///< the call that it waits for
        std::chrono::duration<double> waited{};
        CallPlace newest;           ///< the newest call that it has begun; no label: none yet
        std::vector<Group> groups;  ///< in the order in which they were joined
    };

    /// The phase from now on; the one before is returned.
    Phase enter(Phase phase) {
        tick();
        return phase_.exchange(phase, std::memory_order_relaxed);
    }
    void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
    /// The rank has come further.
    void tick() { ticks_.fetch_add(1, std::memory_order_relaxed); }
    /// From now on this counter is progress too.
    void count(std::shared_ptr<const std::atomic<uint64_t>> work);

    // Called by communicators.
    void join(uint64_t group, const std::string& name, int size);
    void leave(uint64_t group);
    /// Call `sequence`, which takes the numbers to `last`, has begun.
    void begin(uint64_t group, int64_t sequence, int64_t last, const std::string& label);
    void begin_message(uint64_t group, const MessageEnd& message);
    void wait(uint64_t group, int64_t sequence, const std::string& label,
              const MessageEnd& message = {});
    void go_on();

    Look look() const;

  private:
    Group* find(uint64_t group);

    std::atomic<Phase> phase_{Phase::start};
    std::atomic<int64_t> step_{0};
    std::atomic<uint64_t> ticks_{0};

    mutable std::mutex mutex_;  ///< guards what follows
    std::vector<std::shared_ptr<const std::atomic<uint64_t>>> work_;
    std::vector<Group> groups_;
    uint64_t uses_ = 0;
    CallPlace newest_;
    std::optional<CallPlace> waits_;
    std::chrono::steady_clock::time_point waits_since_;
};

/// Names what a rank is busy with until the end of a block.
class PhaseMark {
  public:
    PhaseMark(Activity& activity, Phase phase)
        : activity_(activity), outer_(activity.enter(phase)) {}
    ~PhaseMark() { activity_.enter(outer_); }
    PhaseMark(const PhaseMark&) = delete;
    PhaseMark& operator=(const PhaseMark&) = delete;

  private:
    Activity& activity_;
    Phase outer_;
};

}  // namespace plinth::parallel
