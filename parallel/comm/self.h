// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// A group of one rank. Callers take the same path as with many; every call ends at once.
class SelfCommunicator final : public Communicator {
  public:
    explicit SelfCommunicator(CommunicatorOptions options = {});

    std::unique_ptr<Communicator> split(int color, std::string name) override;
    void progress() override {}
    /// There is no other rank to stop: the caller's own error ends the program.
    void abort(const std::string&, ErrorKind) override {}

  protected:
    std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                       std::vector<Incoming> receives) override;
    void relax(std::chrono::duration<double>) override {}
    std::string missing_ranks(int64_t) override { return ""; }
};

/// The name of this machine.
std::string host_name();

}  // namespace plinth::parallel
