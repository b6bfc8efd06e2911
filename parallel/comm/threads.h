// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Runs `body` as `ranks` ranks, one thread each, that talk through memory: how most distributed
/// tests run, in one process and under any sanitizer. An error on one rank aborts the others; the
/// one that began it is rethrown here. Sizes and labels of matching calls are compared.
void run_as_threads(int ranks, const std::function<void(Communicator&)>& body,
                    const CommunicatorOptions& options = {});

}  // namespace plinth::parallel
