// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "core/io/run_lock.h"

namespace plinth::test {

/// Processes and a clock that a test makes up; locks in it beat only when told to.
struct LockWorld {
    static core::io::ProcessIdentity process(int64_t pid, const std::string& host = "here") {
        return {.host = host,
                .boot = "boot",
                .pid_namespace = "pid:[1]",
                .pid = pid,
                .start_ticks = 10 * pid};
    }
    core::io::RunLockOptions options(int64_t pid, const std::string& host = "here") {
        core::io::RunLockOptions result;
        result.self = process(pid, host);
        result.life_of = [this](const core::io::ProcessIdentity& holder) {
            if (invisible.contains(holder.pid)) return core::io::Life::unknown;
            return living.contains(holder.pid) ? core::io::Life::alive : core::io::Life::gone;
        };
        result.now = [this] { return time; };
        result.beat_every = std::chrono::milliseconds(0);
        result.say = [this](const std::string& line) { lines.push_back(line); };
        return result;
    }
    void pass(std::chrono::milliseconds span) { time += span; }

    std::set<int64_t> living{1, 2, 3};
    std::set<int64_t> invisible;  ///< that this user may not look at
    std::chrono::steady_clock::time_point time{};
    std::vector<std::string> lines;
};

}  // namespace plinth::test
