// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "parallel/comm/activity.h"

namespace plinth::parallel {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

enum class Reduce { sum, max };

/// A message to another rank of a group, and one from another rank.
struct Outgoing {
    int peer;
    ConstBytes bytes;
};
struct Incoming {
    int peer;
    Bytes bytes;
};

/// What one call is matched by. Sequence numbers of collectives count the group's calls; those of
/// messages are counted by pair and given per peer.
struct Call {
    enum class Channel { collective, message } channel = Channel::collective;
    int64_t sequence = 0;
    std::string label;
    MessageEnd message = {};
};

/// Bytes under way, as a backend sees them. It owns the requests and any staging memory.
class Transfer {
  public:
    virtual ~Transfer() = default;
    /// Advances; true once everything was sent and received. Not called again after that.
    virtual bool test() = 0;
    /// True once later work of the device's stream comes after it: then whoever goes on with that
    /// stream need not wait for `test`. Never true for transfers of the host.
    virtual bool order() { return false; }
};

}  // namespace plinth::parallel
