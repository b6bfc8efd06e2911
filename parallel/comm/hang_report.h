// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/hang_watch.h"

namespace plinth::parallel {

/// Where a rank lives.
struct RankPlace {
    std::string host;
    int pid = 0;
    /// What the system says of the process: 'T' stopped, 't' held by a debugger, 'R', 'S', 'D'
    /// (waits for a device), 'Z' ended; 0 where nobody has looked.
    char state = 0;
};

/// The lines for people: the culprits with host, process, step, phase and operation, then who waits
/// where. `reporter` is the rank that speaks. Each line begins with "plinth: hang: ".
std::string hang_report(const Verdict& verdict, const HangWatch& watch,
                        const std::vector<RankPlace>& places, int reporter, double now,
                        int exit_code);

/// "0, 2-4, 7" of ascending numbers.
std::string ranges_text(const std::vector<int>& ranks);

}  // namespace plinth::parallel
