// SPDX-License-Identifier: Apache-2.0
// The seam to NCCL, which is a module loaded on demand (libplinth_nccl.so).
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "kernels/runtime/dtype.h"
#include "parallel/comm/transfer.h"

namespace plinth::parallel {

/// What the ranks of one communicator find each other by.
using NcclId = std::array<std::byte, 128>;

/// One communicator of NCCL. No call blocks: each is given to the stream, or is on its way there
/// until `is_ready`; only then may the next call follow. Buffers lie in device memory. Errors are
/// of kind ranks. Going without `close` aborts it.
class NcclComm {
  public:
    virtual ~NcclComm() = default;
    /// Throws the library's error if there is one.
    virtual bool is_ready() = 0;
    /// Of at most NcclLibrary::most_messages.
    virtual void exchange(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                          void* stream) = 0;
    virtual void all_reduce(void* values, size_t count, DType dtype, Reduce reduce,
                            void* stream) = 0;
    virtual void broadcast(Bytes bytes, int root, void* stream) = 0;
    /// In order, when all its work is done. True once it is closed: to be called until then.
    virtual bool close() = 0;
};

class NcclLibrary {
  public:
    virtual ~NcclLibrary() = default;
    /// "2.28.9"
    virtual std::string version() = 0;
    /// That one exchange may have, sent and received ones together: two at least.
    virtual size_t most_messages() const = 0;
    virtual NcclId new_id() = 0;
    /// On the device that this thread uses now.
    virtual std::unique_ptr<NcclComm> connect(const NcclId& id, int rank, int size,
                                              const std::string& name) = 0;
};

/// Loaded by the first call. Throws an error of kind config that says what is missing.
NcclLibrary& nccl_library();
/// Why there is none; empty if there is one.
const std::string& no_nccl_reason();

}  // namespace plinth::parallel
