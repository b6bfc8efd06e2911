// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

namespace plinth::parallel {

/// Looks a variable up in the environment; null when it is not set. The launchers of MPI programs
/// speak through it.
using Environment = std::function<const char*(const char* name)>;

/// True when mpirun, srun or a PMI launcher started this process as one of its tasks. A program
/// started by hand need not initialise MPI, which takes 0.4 s and starts a daemon.
bool is_launched(const Environment& environment);

/// This process's number among the launcher's tasks, known before MPI is; 0 without a launcher.
int launched_rank(const Environment& environment);

/// Number of the launcher's tasks, known before MPI is; 1 without a launcher.
int launched_ranks(const Environment& environment);

/// Refuses (kind config) a job whose launcher started several tasks while MPI sees a world of one:
/// each would train alone, and all would write the same files. The message names the fix.
void check_launch(int mpi_size, const Environment& environment);

}  // namespace plinth::parallel
