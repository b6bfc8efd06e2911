// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/nccl_links.h"

namespace plinth::parallel {

/// Device memory of one call.
class LinkBlock {
  public:
    LinkBlock(std::shared_ptr<LinkMemory> memory, size_t bytes)
        : memory_(std::move(memory)), data_(memory_->allocator.allocate(bytes)), bytes_(bytes) {}
    ~LinkBlock() { memory_->allocator.free(data_, bytes_); }
    LinkBlock(const LinkBlock&) = delete;
    LinkBlock& operator=(const LinkBlock&) = delete;
    std::byte* data() const { return static_cast<std::byte*>(data_); }

  private:
    std::shared_ptr<LinkMemory> memory_;
    void* data_;
    size_t bytes_;
};

/// For what is under way when nobody uses a group any more.
inline constexpr std::chrono::seconds link_closing_limit{10};

/// One communicator of NCCL with a queue of its own, on which its calls follow one another.
class NcclLane {
  public:
    /// When its calls are given to the device.
    enum class Turn {
        /// After those of all such lanes of this rank that began before. NCCL wants the calls of
        /// different communicators in one order on all ranks of a device: that of the program.
        of_program,
        /// As soon as it is ready: a message that is expected early must hold up no other call.
        own,
    };
    /// Part of a call: gives the queue at most one call of NCCL, as its last act.
    using Step = std::function<void(NcclComm& comm, LinkQueue& queue)>;

    struct Place {
        int rank = 0;
        int size = 1;
        std::string name;
        Turn turn = Turn::of_program;
    };

    /// The first rank makes the id and sends it to the others through `host`, under `call`;
    /// peers[i] is what `host` calls rank i.
    NcclLane(NcclLinks& links, Place place, const Call& call, const std::vector<int>& peers,
             const HostExchange& host);
    /// Waits for its work for a while; after an error it aborts at once.
    ~NcclLane();
    NcclLane(const NcclLane&) = delete;
    NcclLane& operator=(const NcclLane&) = delete;

    /// Does the steps after all calls so far and after what the computing queue has been given by
    /// now. `block` stays until they are done.
    std::unique_ptr<Transfer> start(std::vector<Step> steps, std::shared_ptr<LinkBlock> block = {});
    /// Connects, and gives the device what may go out of the program's turn.
    void progress();
    /// Gives the device the oldest waiting call as a whole; false if that is to be tried again.
    bool give_next();
    /// True while the device has not got all calls.
    bool is_waiting() const { return !waiting_.empty() && !was_aborted_; }
    void abort() noexcept;

  private:
    friend class LaneTransfer;
    struct Work {
        std::vector<Step> steps;
        size_t next = 0;
        std::unique_ptr<DeviceEvent> ready;  ///< of the computing queue, when the call began
        std::unique_ptr<DeviceEvent> done;   ///< null until the device has all steps
        std::shared_ptr<LinkBlock> block;
    };

    bool connect();
    bool is_idle();

    NcclLinks& links_;
    Place place_;
    std::unique_ptr<NcclIdExchange> id_;
    std::unique_ptr<LinkQueue> queue_;
    std::unique_ptr<NcclComm> comm_;
    std::deque<std::shared_ptr<Work>> waiting_;  ///< not yet given to the device
    std::deque<std::shared_ptr<Work>> given_;    ///< not known to be done
    bool was_used_ = false;
    bool was_aborted_ = false;
};

}  // namespace plinth::parallel
