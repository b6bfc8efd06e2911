// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace plinth::launch {

/// SIGUSR1, SIGTERM and SIGINT ask the run to finish its step, save and exit. Installed after MPI's
/// own start; the handlers only set a flag, on the thread that SignalThread keeps for them. A
/// second SIGINT ends the process at once, as people expect of Ctrl-C.
class StopSignal {
  public:
    StopSignal();
    /// The run is over: SIGUSR1 and SIGTERM that come late are ignored.
    ~StopSignal();
    StopSignal(const StopSignal&) = delete;
    StopSignal& operator=(const StopSignal&) = delete;

    /// True once one of the signals has come to this process.
    bool requested() const;
};

}  // namespace plinth::launch
