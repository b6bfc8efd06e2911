// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plinth::parallel {

/// When a process of this machine began, in the system's own unit; 0 if there is none. With the
/// number it names one process, for numbers are used again.
uint64_t process_start(int pid);

/// Another process of this machine, held by a descriptor: what is asked and sent cannot reach one
/// that took its number over.
class Process {
  public:
    /// None if there is no such process, it began at another time (another container, say), or the
    /// system is too old for it (before Linux 5.3).
    static std::optional<Process> open(int pid, uint64_t started);
    Process(Process&& other) noexcept;
    Process& operator=(Process&& other) noexcept;
    ~Process();

    bool has_ended() const;
    /// Its state as the system names it, such as 'T' for stopped; 0 if that cannot be read.
    char state() const;
    int descriptor() const { return descriptor_; }

  private:
    Process(int pid, int descriptor) : pid_(pid), descriptor_(descriptor) {}

    int pid_;
    int descriptor_;
};

/// The daemon of OpenMPI that started this process (mpirun or orted), if it was one.
std::optional<Process> launcher_process();

/// Starts a small process of its own session that outlives this one and sees to it that the job
/// really ends on this machine: mpirun, when a link is cut, does not
/// end itself. Those of `ranks` that live on after `grace` seconds are killed; then, five seconds
/// later, the launcher, by SIGRTMIN, so that its exit code in a shell is 128 + 34 = 162. Both may
/// be in any state; null: there is no launcher to end.
void start_undertaker(const std::vector<const Process*>& ranks, const Process* launcher,
                      double grace) noexcept;

}  // namespace plinth::parallel
