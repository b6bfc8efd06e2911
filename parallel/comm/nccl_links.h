// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/device_link.h"
#include "parallel/comm/nccl_library.h"

namespace plinth::parallel {

/// A queue of the device beside the one that computes.
class LinkQueue {
  public:
    virtual ~LinkQueue() = default;
    virtual DeviceQueue& queue() = 0;
    /// sum += values, element by element.
    virtual void add(float* sum, const float* values, size_t count) = 0;
};

/// A rank's device as its links use it.
class LinkDevice {
  public:
    virtual ~LinkDevice() = default;
    /// Where buffers are filled and read.
    virtual DeviceQueue& compute() = 0;
    virtual std::unique_ptr<LinkQueue> new_queue() = 0;
    virtual MemorySource& memory() = 0;
};

/// Of a stream of a device, which must outlive it.
std::unique_ptr<LinkDevice> link_device(Stream& stream);

/// A device and its memory that calls have kept for the next ones.
struct LinkMemory {
    explicit LinkMemory(std::unique_ptr<LinkDevice> of)
        : device(std::move(of)),
          allocator(device->memory(), CachingAllocator::Rounding::sizes, "exchange over NCCL") {}
    std::unique_ptr<LinkDevice> device;
    CachingAllocator allocator;
};

/// The id of a communicator on its way through the host, which may write to it until it has come.
struct NcclIdExchange {
    NcclId id{};
    std::unique_ptr<Transfer> transfer;  ///< null: it has come
    bool is_done() {
        if (transfer && transfer->test()) transfer = nullptr;
        return !transfer;
    }
};

class NcclLane;

/// Links over NCCL. A group has one communicator of NCCL for its collectives, made at its first
/// collective, and one for each pair of ranks and direction in which messages go, made at the first
/// one: on a stream of the device work waits for what was given before it, and a message that is
/// expected early must not hold up another one. They come about beside the work: what is asked of
/// them meanwhile is kept and given to the device by a later `progress` or wait. Collectives of
/// all groups are given in the order in which this rank began them, whichever communicator comes
/// about first: NCCL wants one order on all ranks. Messages go when they can.
///
/// Integers are summed by NCCL. Floats are gathered and added in rank order, as every backend does.
class NcclLinks final : public DeviceLinks {
  public:
    NcclLinks(NcclLibrary& library, std::unique_ptr<LinkDevice> device);
    ~NcclLinks() override;

    std::unique_ptr<DeviceLink> link(Communicator& group, HostExchange host) override;
    void progress() override;
    /// Before the host waits for that place of the computing queue, null for all of its work: waits
    /// for what the queue waits for before, in all groups and in its order, and gives the device
    /// what it was asked for meanwhile. So a call that does not come is named, and none is held up
    /// by a host that waits.
    void settle(DeviceEvent* place = nullptr);

    NcclLibrary& library() { return library_; }
    LinkDevice& device() { return *memory_->device; }
    const std::shared_ptr<LinkMemory>& memory() { return memory_; }
    void join(NcclLane& lane) { lanes_.push_back(&lane); }
    void leave(NcclLane& lane) {
        std::erase(lanes_, &lane);
        std::erase(turns_, &lane);
    }
    /// The newest call of this lane comes after those that lined up before.
    void line_up(NcclLane& lane) { turns_.push_back(&lane); }
    /// Until it has come, for the host may write to it even when its lane has gone.
    void keep(std::unique_ptr<NcclIdExchange> id) { ids_.push_back(std::move(id)); }
    void join(Communicator& group) { groups_.push_back(&group); }
    void leave(Communicator& group) { std::erase(groups_, &group); }

  private:
    /// Those that have come.
    void drop_ids();

    NcclLibrary& library_;
    std::shared_ptr<LinkMemory> memory_;
    std::vector<NcclLane*> lanes_;
    std::deque<NcclLane*> turns_;                       ///< one entry a call that waits
    std::vector<std::unique_ptr<NcclIdExchange>> ids_;  ///< of lanes that have gone
    std::vector<Communicator*> groups_;
};

/// Why the ranks of this group cannot use NCCL between their devices, the same text on all of
/// them; "" if they can. Collective. NCCL wants a device for each rank.
std::string nccl_obstacle(Communicator& group, Device device);

enum class DeviceWay { staged, nccl };

/// While it lives, device memory may be given to a group and to those that are split off from it
/// meanwhile. All ranks of the group make it between the same calls. The stream is where this rank
/// computes; on a CPU's stream nothing changes.
class DeviceConnection {
  public:
    DeviceConnection(Communicator& group, Stream& stream, DeviceWay way);
    ~DeviceConnection();
    DeviceConnection(const DeviceConnection&) = delete;
    DeviceConnection& operator=(const DeviceConnection&) = delete;

  private:
    Communicator& group_;
    Stream& stream_;
};

}  // namespace plinth::parallel
