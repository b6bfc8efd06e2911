// SPDX-License-Identifier: Apache-2.0
#include "core/io/process_identity.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

namespace plinth::core::io {

namespace {

/// What proc(5) says in /proc/PID/stat: field 3 and field 22.
struct ProcessState {
    char state = '?';
    int64_t start_ticks = 0;
};

std::optional<ProcessState> state_of(int64_t pid) {
    std::ifstream in(fmt::format("/proc/{}/stat", pid));
    const std::string line{std::istreambuf_iterator<char>(in), {}};
    const size_t name_end = line.rfind(')');  // a process may have any name, ") R 1" too
    if (name_end == std::string::npos) return {};
    std::istringstream rest(line.substr(name_end + 1));
    ProcessState result;
    std::string field;
    rest >> result.state;
    for (int number = 4; number < 22; ++number)
        rest >> field;
    if (!(rest >> result.start_ticks)) return {};
    return result;
}

std::string host_name() {
    std::array<char, 256> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string link_target(const char* path) {
    std::array<char, 256> target{};
    return ::readlink(path, target.data(), target.size() - 1) > 0 ? target.data() : "";
}

}  // namespace

ProcessIdentity this_process() {
    ProcessIdentity self{.host = host_name(),
                         .boot = "",
                         .pid_namespace = link_target("/proc/self/ns/pid"),
                         .pid = ::getpid()};
    std::ifstream("/proc/sys/kernel/random/boot_id") >> self.boot;
    if (const auto state = state_of(self.pid)) self.start_ticks = state->start_ticks;
    return self;
}

std::string why_out_of_sight(const ProcessIdentity& process, const ProcessIdentity& from) {
    if (process.host != from.host) return "it is on another host";
    if (process.boot.empty() || process.boot != from.boot)
        return "it is of another boot of this host";
    if (process.pid_namespace.empty() || process.pid_namespace != from.pid_namespace)
        return "it is in another pid namespace, such as a container's";
    return "";
}

Life life_of(const ProcessIdentity& process) {
    if (const auto state = state_of(process.pid)) {
        const bool ended = state->state == 'Z' || state->state == 'X';
        return ended || state->start_ticks != process.start_ticks ? Life::gone : Life::alive;
    }
    const bool gone =
        process.pid > 0 && ::kill(static_cast<pid_t>(process.pid), 0) != 0 && errno == ESRCH;
    return gone ? Life::gone : Life::unknown;
}

}  // namespace plinth::core::io
