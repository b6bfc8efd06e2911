// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "launch/session.h"

namespace plinth::launch {

/// Keeps a host that hands out the work of micro-batches near the device that does it. A host that
/// has given a device the work of a whole step waits for all of it at once, which may take longer
/// than other ranks take for a hang. So it stays within a micro-batch: while the device works on
/// one, it hands out the next, and the device always has work.
class HostPace {
  public:
    explicit HostPace(Session& session) : session_(session) {}

    /// After all work of a micro-batch. Waits for the one before it; of a rank alone never.
    void end_micro_batch() {
        if (session_.world().size() == 1) return;
        session_.stream().synchronize(before_.get());
        before_ = session_.stream().record();
    }

  private:
    Session& session_;
    std::unique_ptr<DeviceEvent> before_;
};

}  // namespace plinth::launch
