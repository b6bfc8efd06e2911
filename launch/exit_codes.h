// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace plinth::launch {

/// Exit codes besides those of errors (kernels/runtime/error.h). Codes from 128 on mean "start me
/// again", which is what job controllers understand by them; docs/operations.md lists all.
enum ExitCode : int {
    exit_done = 0,
    exit_diverged = 7,  ///< train.max_skipped_steps not finite in a row: nothing was saved since,
                        ///< and the same command comes to the same point
    exit_stopped =
        160,  ///< a signal asked for the end: a checkpoint is written, the same command goes on
    exit_time_limit =
        161,  ///< run.time_limit is near: a checkpoint is written, the same command goes on
    exit_hang =
        162,  ///< a rank hangs and was named: the same command goes on from the newest checkpoint;
              ///< also what a shell says of an mpirun that had to be ended by SIGRTMIN, 128 + 34
};

}  // namespace plinth::launch
