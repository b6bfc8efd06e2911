// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace plinth::parallel {

struct HeartbeatConfig {
    double limit = 10.0;      ///< seconds until a silent rank is reported
    double patience = 600.0;  ///< seconds that a rank may wait for storage while others wait for it
    int exit_code = 1;        ///< of a job that hangs
    /// Prints the lines of a report, on a thread of its own; it may block.
    std::function<void(const std::string& lines)> report;
    /// Says what is not watched.
    std::function<void(const std::string& line)> warn;
};

/// Watches the ranks of a job from outside MPI, for OpenMPI notices neither a stopped rank nor a
/// dead link. A thread of each rank sends beats (parallel/comm/beat.h) as UDP datagrams: to rank 0,
/// to its deputy (the first rank of another machine), to the first rank of its own machine and to
/// the rank after it; whoever gets a beat answers now and then. The first of these three that is
/// still heard judges (parallel/comm/hang_watch.h), prints one report and ends the job: all ranks
/// with the exit code, stopped ones and an mpirun that does not end by a signal.
///
/// Datagrams carry a random token of the job; between machines they are neither encrypted nor
/// signed, like MPI's own.
class Heartbeat {
  public:
    /// Collective. Watches from now on what the world's `activity()` tells; the world must outlive
    /// it. A world of one starts no thread.
    Heartbeat(Communicator& world, HeartbeatConfig config);
    /// Says farewell: this rank's end is none of the job.
    ~Heartbeat();
    Heartbeat(const Heartbeat&) = delete;
    Heartbeat& operator=(const Heartbeat&) = delete;

  private:
    class Thread;
    std::unique_ptr<Thread> thread_;
};

}  // namespace plinth::parallel
