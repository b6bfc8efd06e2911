// SPDX-License-Identifier: Apache-2.0
// Between the device memories of a group's ranks without the host: what a communicator asks of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/dtype.h"
#include "parallel/comm/transfer.h"

namespace plinth::parallel {

class Communicator;

/// The link of one group. All buffers lie in device memory and none is empty. A call comes after
/// what the device's stream was given before it; its transfer orders later work of that stream
/// (Transfer::order). Used by the rank's thread.
class DeviceLink {
  public:
    virtual ~DeviceLink() = default;
    /// Before the first collective. Every member calls it with the same `call`, which nothing else
    /// uses. Returns at once.
    virtual void open_collectives(const Call& call) = 0;
    virtual std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                               std::vector<Incoming> receives) = 0;
    virtual std::unique_ptr<Transfer> broadcast(const Call& call, Bytes bytes, int root) = 0;
    /// In place; the result does not depend on the order.
    virtual std::unique_ptr<Transfer> exact_reduction(const Call& call, void* values, size_t count,
                                                      DType dtype, Reduce reduce) = 0;
    /// In place: the sums in rank order.
    virtual std::unique_ptr<Transfer> ordered_sum(const Call& call, float* values,
                                                  size_t count) = 0;
    /// Ends what is under way, on an error: nothing waits for it any more.
    virtual void abort() noexcept = 0;
};

/// Sends bytes of host memory to other ranks of a group.
using HostExchange = std::function<std::unique_ptr<Transfer>(
    const Call& call, std::vector<Outgoing> sends, std::vector<Incoming> receives)>;

/// The links of one rank.
class DeviceLinks {
  public:
    virtual ~DeviceLinks() = default;
    /// For a group of two ranks or more, which must outlive it.
    virtual std::unique_ptr<DeviceLink> link(Communicator& group, HostExchange host) = 0;
    /// Moves what is under way along, in all groups: a rank that waits for something else calls it
    /// again and again.
    virtual void progress() = 0;
    /// Over all groups: of the next call that the device's stream is told to wait for.
    uint64_t next_number() { return ++numbers_; }

  private:
    uint64_t numbers_ = 0;
};

}  // namespace plinth::parallel
