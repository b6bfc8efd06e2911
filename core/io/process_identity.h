// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace plinth::core::io {

/// A process, told apart from every other one, also from a later one that got its number.
struct ProcessIdentity {
    std::string host;
    std::string boot;           ///< the kernel's random id of this boot; empty: it does not say
    std::string pid_namespace;  ///< where `pid` counts, as "pid:[4026531836]"; empty: unknown
    int64_t pid = 0;
    int64_t start_ticks = 0;  ///< when it started, in clock ticks since the boot

    bool operator==(const ProcessIdentity&) const = default;
};

/// Linux; elsewhere boot and pid_namespace are empty, so that no process can be looked up.
ProcessIdentity this_process();

/// Whether a process on the machine of `from`, in its pid namespace, can be looked up from there.
/// Empty if it can, else why not: "it is on another host".
std::string why_out_of_sight(const ProcessIdentity& process, const ProcessIdentity& from);

enum class Life {
    gone,     ///< ended, also where its parent has not yet asked for its exit code
    alive,    ///< also stopped
    unknown,  ///< this user may not look
};

/// Whether a process of this machine, boot and pid namespace still lives.
Life life_of(const ProcessIdentity& process);

}  // namespace plinth::core::io
