// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/io/file.h"
#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// The first line of a file of /proc, which has no size: byte by byte. "" if it cannot be read.
std::string proc_line(const std::string& path) {
    std::string line;
    try {
        const auto file = core::io::posix().open_read(path);
        for (std::byte byte{}; line.size() < 4096; line.push_back(static_cast<char>(byte))) {
            file->read_at(line.size(), {&byte, 1});
            if (byte == std::byte{'\n'}) break;
        }
    } catch (const Error&) {
        return "";
    }
    return line;
}

/// The words of /proc/PID/stat after the name, which may hold anything: the state is the first.
std::vector<std::string> stat_words(int pid) {
    const std::string line = proc_line(fmt::format("/proc/{}/stat", pid));
    std::vector<std::string> words;
    const size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) return words;
    for (size_t at = name_end + 2; at < line.size();) {
        const size_t end = std::min(line.find(' ', at), line.size());
        words.push_back(line.substr(at, end - at));
        at = end + 1;
    }
    return words;
}

bool has_ended(int descriptor) {
    pollfd wanted{.fd = descriptor, .events = POLLIN, .revents = 0};
    return ::poll(&wanted, 1, 0) == 1;
}

void send_signal(int descriptor, int number) {
    ::syscall(SYS_pidfd_send_signal, descriptor, number, nullptr, 0);
}

/// What the undertaker knows: plain memory, for after the fork it may not allocate.
struct Duty {
    std::array<int, 256> ranks{};
    size_t count = 0;
    int launcher = -1;
    double grace = 0.0;

    bool ranks_ended() const {
        return std::all_of(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count),
                           [](int rank) { return has_ended(rank); });
    }
    bool launcher_ended() const { return launcher < 0 || has_ended(launcher); }
};

/// Closes everything but the duty's descriptors: a pipe or socket of the dead rank that stays open
/// would make it look alive.
void close_others(const Duty& duty) {
    std::array<int, 257> kept{};
    size_t count = 0;
    for (size_t i = 0; i < duty.count; ++i)
        kept[count++] = duty.ranks[i];
    if (duty.launcher >= 0) kept[count++] = duty.launcher;
    std::sort(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(count));
    unsigned first = 0;
    for (size_t i = 0; i < count; ++i) {
        const auto own = static_cast<unsigned>(kept[i]);
        if (own > first) ::syscall(SYS_close_range, first, own - 1, 0);
        first = own + 1;
    }
    ::syscall(SYS_close_range, first, ~0u, 0);
}

/// Runs in the forked process, where other threads' locks may be held for ever: system calls only.
[[noreturn]] void undertake(const Duty& duty) {
    constexpr double look = 0.05, patience = 5.0;
    const auto wait_until = [&](auto&& done, double seconds) {
        const timespec pause{.tv_sec = 0, .tv_nsec = static_cast<long>(look * 1e9)};
        for (double waited = 0; waited < seconds && !done(); waited += look)
            ::nanosleep(&pause, nullptr);
        return done();
    };
    ::setsid();
    close_others(duty);
    wait_until([&] { return duty.ranks_ended() && duty.launcher_ended(); }, duty.grace);
    for (size_t i = 0; i < duty.count; ++i)
        send_signal(duty.ranks[i], SIGKILL);
    for (const int last : {34, SIGKILL})  // 34: SIGRTMIN, which needs a call in glibc
        if (!wait_until([&] { return duty.launcher_ended(); }, patience))
            send_signal(duty.launcher, last);
    ::syscall(SYS_exit_group, 0);
    std::abort();  // not reached
}

}  // namespace

uint64_t process_start(int pid) {
    constexpr size_t start_word = 19;  // field 22 of proc(5), the state is field 3
    const std::vector<std::string> words = stat_words(pid);
    uint64_t start = 0;
    if (words.size() > start_word) {
        const std::string& word = words[start_word];
        std::from_chars(word.data(), word.data() + word.size(), start);
    }
    return start;
}

std::optional<Process> Process::open(int pid, uint64_t started) {
    // The descriptor first: a process that has it and the right start is the right one for good.
    const auto descriptor = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (descriptor < 0) return std::nullopt;
    Process process(pid, descriptor);
    if (started == 0 || process_start(pid) != started) return std::nullopt;
    return process;
}

Process::Process(Process&& other) noexcept : pid_(other.pid_), descriptor_(other.descriptor_) {
    other.descriptor_ = -1;
}

Process& Process::operator=(Process&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

Process::~Process() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

bool Process::has_ended() const {
    return parallel::has_ended(descriptor_);
}

char Process::state() const {
    const std::vector<std::string> words = stat_words(pid_);
    return has_ended() || words.empty() || words[0].empty() ? '\0' : words[0][0];
}

std::optional<Process> launcher_process() {
    const int parent = ::getppid();
    const std::string name = proc_line(fmt::format("/proc/{}/comm", parent));
    constexpr std::array<std::string_view, 6> names{"mpirun", "mpiexec", "orterun",
                                                    "orted",  "prterun", "prted"};
    if (std::ranges::none_of(names, [&](std::string_view one) { return name.starts_with(one); }))
        return std::nullopt;
    std::optional<Process> launcher = Process::open(parent, process_start(parent));
    if (::getppid() != parent) return std::nullopt;
    return launcher;
}

void start_undertaker(const std::vector<const Process*>& ranks, const Process* launcher,
                      double grace) noexcept {
    Duty duty{.launcher = launcher ? launcher->descriptor() : -1, .grace = grace};
    for (const Process* rank : ranks)
        if (duty.count < duty.ranks.size()) duty.ranks[duty.count++] = rank->descriptor();
    // Not fork(): its handlers take locks that a hung thread may hold.
    if (::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr) == 0) undertake(duty);
}

}  // namespace plinth::parallel
