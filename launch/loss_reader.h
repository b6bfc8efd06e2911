// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/ops/cross_entropy.h"
#include "launch/host_pace.h"
#include "launch/session.h"
#include "parallel/comm/communicator.h"

namespace plinth::launch {

/// The loss of one micro-batch in host memory.
struct ReadLoss {
    int64_t slot = 0;
    double sum = 0.0, cross_entropy = 0.0;
    int64_t weight = 0, correct = 0;
};

/// Losses of several micro-batches on their way to the host: the device is waited for once.
class LossReader {
  public:
    /// `sharing`: the ranks that share the tokens of each micro-batch; null for this one alone.
    explicit LossReader(Session& session, parallel::Communicator* sharing = nullptr)
        : session_(session), sharing_(sharing), pace_(session) {}

    void add(int64_t slot, const core::ops::Loss& loss);
    /// For runners that hand over losses as they come.
    std::function<void(int64_t, const core::ops::Loss&)> collector() {
        return [this](int64_t slot, const core::ops::Loss& loss) { add(slot, loss); };
    }
    /// All that were added, in that order, summed over the ranks that share their tokens, for whom
    /// it is collective. Waits for the session's stream.
    std::vector<ReadLoss> read();

  private:
    Session& session_;
    parallel::Communicator* sharing_;
    std::vector<std::pair<int64_t, core::ops::Loss>> losses_;
    HostPace pace_;
};

}  // namespace plinth::launch
