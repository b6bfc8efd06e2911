// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/runtime/stream.h"

namespace plinth {

/// Copies between host memory and the device of a stream, beside the stream's own work and in the
/// order in which they are given. Used by the thread of that stream, which must outlive it.
class CopyEngine {
  public:
    virtual ~CopyEngine() = default;
    /// Later copies come after all work that the stream has been given so far. The host does not
    /// wait.
    virtual void wait_for_stream() = 0;
    /// May return before it is done. Host memory must be what the device reaches without help
    /// (DeviceModule::pinned_memory), and is neither read nor written before `synchronize`.
    virtual void copy(void* to, const void* from, size_t bytes) = 0;
    /// Later work of the stream comes after all copies so far. The host does not wait.
    virtual void hold_stream() = 0;
    /// The place after all copies so far; null where they are done.
    virtual std::unique_ptr<DeviceEvent> record() = 0;
    /// Waits until all copies so far are done.
    virtual void synchronize() = 0;
};

/// With a queue of its own on a device; two of them, one for each direction, copy at once. On the
/// CPU a copy is done when the call returns.
std::unique_ptr<CopyEngine> make_copy_engine(Stream& stream);

}  // namespace plinth
