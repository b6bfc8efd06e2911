// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_links.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>
#include <numeric>
#include <thread>

#include "kernels/add.h"
#include "kernels/runtime/device_module.h"
#include "parallel/comm/nccl_lane.h"

namespace plinth::parallel {

namespace {

class StreamQueue final : public LinkQueue {
  public:
    explicit StreamQueue(Device device) : stream_(device, /*threads=*/1) {}
    DeviceQueue& queue() override { return stream_.queue(); }
    void add(float* sum, const float* values, size_t count) override {
        const Shape shape{static_cast<int64_t>(count)};
        const View to(sum, DType::f32, shape, stream_.device());
        const View more(const_cast<float*>(values), DType::f32, shape, stream_.device());
        kernels::add(to, to, more, stream_);
    }

  private:
    Stream stream_;
};

class StreamDevice final : public LinkDevice {
  public:
    explicit StreamDevice(Stream& stream) : stream_(stream) {}
    DeviceQueue& compute() override { return stream_.queue(); }
    std::unique_ptr<LinkQueue> new_queue() override {
        return std::make_unique<StreamQueue>(stream_.device());
    }
    MemorySource& memory() override { return cuda_module().memory(stream_.device().index); }

  private:
    Stream& stream_;
};

std::vector<int> all_ranks(int size) {
    std::vector<int> ranks(static_cast<size_t>(size));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
}

class NcclLink final : public DeviceLink {
  public:
    NcclLink(NcclLinks& links, Communicator& group, HostExchange host)
        : links_(links), group_(group), rank_(group.rank()), host_(std::move(host)) {
        links_.join(group_);
    }
    ~NcclLink() override { links_.leave(group_); }

    void open_collectives(const Call& call) override {
        lane_ = std::make_unique<NcclLane>(
            links_, NcclLane::Place{.rank = rank_, .size = group_.size(), .name = group_.name()},
            call, all_ranks(group_.size()), host_);
    }

    std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                       std::vector<Incoming> receives) override {
        if (call.channel == Call::Channel::collective) {
            std::vector<NcclLane::Step> steps;
            add_rounds(steps, sends, receives);
            return lane_->start(std::move(steps));
        }
        // A lane of a pair has two ranks, of which the one that sends is the first.
        NcclLane& lane = message_lane(call);
        for (Outgoing& out : sends)
            out.peer = 1;
        for (Incoming& in : receives)
            in.peer = 0;
        return lane.start({exchange_step(std::move(sends), std::move(receives))});
    }

    std::unique_ptr<Transfer> broadcast(const Call&, Bytes bytes, int root) override {
        return lane_->start({[=](NcclComm& comm, LinkQueue& queue) {
            comm.broadcast(bytes, root, queue.queue().handle());
        }});
    }

    std::unique_ptr<Transfer> exact_reduction(const Call&, void* values, size_t count, DType dtype,
                                              Reduce reduce) override {
        return lane_->start({[=](NcclComm& comm, LinkQueue& queue) {
            comm.all_reduce(values, count, dtype, reduce, queue.queue().handle());
        }});
    }

    std::unique_ptr<Transfer> ordered_sum(const Call&, float* values, size_t count) override {
        const auto ranks = static_cast<size_t>(group_.size()), me = static_cast<size_t>(rank_);
        std::vector<size_t> counts, begins;
        for (size_t p = 0; p < ranks; ++p) {
            begins.push_back(count * p / ranks);
            counts.push_back(count * (p + 1) / ranks - begins[p]);
        }
        std::vector<NcclLane::Step> steps;
        auto block = share_steps(steps, values, counts, values + begins[me]);
        std::vector<Outgoing> out;
        std::vector<Incoming> in;
        const auto part = [&](size_t p) {
            return std::as_writable_bytes(std::span(values + begins[p], counts[p]));
        };
        for (size_t step = 1; step < ranks; ++step) {
            const size_t to = (me + step) % ranks, from = (me + ranks - step) % ranks;
            if (counts[me] > 0) out.push_back({static_cast<int>(to), part(me)});
            if (counts[from] > 0) in.push_back({static_cast<int>(from), part(from)});
        }
        add_rounds(steps, out, in);
        return lane_->start(std::move(steps), std::move(block));
    }

    void abort() noexcept override {
        if (lane_) lane_->abort();
        for (auto& [key, lane] : pairs_)
            lane->abort();
    }

  private:
    static NcclLane::Step exchange_step(std::vector<Outgoing> sends,
                                        std::vector<Incoming> receives) {
        return [sends = std::move(sends), receives = std::move(receives)](NcclComm& comm,
                                                                          LinkQueue& queue) {
            if (!sends.empty() || !receives.empty())
                comm.exchange(sends, receives, queue.queue().handle());
        };
    }

    /// An exchange of at most one message from each rank to each other one, in rounds of as many as
    /// the library takes at once. A round has those between ranks of some distances: each message
    /// is in the same round on both sides, so that no two ranks wait for each other's next one.
    void add_rounds(std::vector<NcclLane::Step>& steps, std::span<const Outgoing> sends,
                    std::span<const Incoming> receives) const {
        const int ranks = group_.size(),
                  distances = static_cast<int>(links_.library().most_messages() / 2);
        const auto round_of = [&](int from, int to) {
            const int distance = (to - from + ranks) % ranks;
            return static_cast<size_t>(std::max(0, distance - 1) / distances);
        };
        std::vector<std::vector<Outgoing>> out(round_of(0, ranks - 1) + 1);
        std::vector<std::vector<Incoming>> in(out.size());
        for (const Outgoing& message : sends)
            out[round_of(rank_, message.peer)].push_back(message);
        for (const Incoming& message : receives)
            in[round_of(message.peer, rank_)].push_back(message);
        for (size_t round = 0; round < out.size(); ++round)
            steps.push_back(exchange_step(std::move(out[round]), std::move(in[round])));
    }

    /// Sends each rank its part, receives every rank's part of this one and adds them in order.
    std::shared_ptr<LinkBlock> share_steps(std::vector<NcclLane::Step>& steps, const float* values,
                                           const std::vector<size_t>& counts, float* mine) {
        const size_t ranks = counts.size(), me = static_cast<size_t>(rank_), count = counts[me];
        auto block = std::make_shared<LinkBlock>(
            links_.memory(), std::max<size_t>(1, count * ranks) * sizeof(float));
        auto* const pieces = reinterpret_cast<float*>(block->data());
        std::vector<const float*> parts{values};
        for (size_t p = 0; p + 1 < ranks; ++p)
            parts.push_back(parts[p] + counts[p]);
        std::vector<Outgoing> out;
        std::vector<Incoming> in;
        for (size_t step = 1; step < ranks; ++step) {
            const size_t to = (me + step) % ranks, from = (me + ranks - step) % ranks;
            if (counts[to] > 0)
                out.push_back(
                    {static_cast<int>(to), std::as_bytes(std::span(parts[to], counts[to]))});
            if (count > 0)
                in.push_back({static_cast<int>(from),
                              std::as_writable_bytes(std::span(pieces + from * count, count))});
        }
        add_rounds(steps, out, in);
        if (count == 0) return block;
        steps.push_back([=, own = parts[me]](NcclComm&, LinkQueue& queue) {
            queue.queue().copy(pieces + me * count, own, count * sizeof(float));
            for (size_t p = 1; p < ranks; ++p)
                queue.add(pieces, pieces + p * count, count);
            queue.queue().copy(mine, pieces, count * sizeof(float));
        });
        return block;
    }

    NcclLane& message_lane(const Call& call) {
        const auto [peer, sends, number] = call.message;
        std::unique_ptr<NcclLane>& lane = pairs_[{peer, sends}];
        if (lane) return *lane;
        const int from = sends ? rank_ : peer, to = sends ? peer : rank_;
        lane = std::make_unique<NcclLane>(
            links_,
            NcclLane::Place{.rank = sends ? 0 : 1,
                            .size = 2,
                            .name = fmt::format("{} {} to {}", group_.name(), from, to),
                            .turn = NcclLane::Turn::own},
            call, std::vector<int>{from, to}, host_);
        return *lane;
    }

    NcclLinks& links_;
    Communicator& group_;
    int rank_;
    HostExchange host_;
    std::unique_ptr<NcclLane> lane_;  ///< of collectives
    /// Of messages, by the other rank and whether this one sends.
    std::map<std::pair<int, bool>, std::unique_ptr<NcclLane>> pairs_;
};

}  // namespace

std::unique_ptr<LinkDevice> link_device(Stream& stream) {
    return std::make_unique<StreamDevice>(stream);
}

NcclLinks::NcclLinks(NcclLibrary& library, std::unique_ptr<LinkDevice> device)
    : library_(library), memory_(std::make_shared<LinkMemory>(std::move(device))) {}

NcclLinks::~NcclLinks() {
    const auto began = std::chrono::steady_clock::now();
    try {
        for (drop_ids(); !ids_.empty() && std::uncaught_exceptions() == 0 &&
                         std::chrono::steady_clock::now() - began < link_closing_limit;
             drop_ids())
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    } catch (...) {  // an error of the host's transport: they may still be written to
    }
    for (auto& id : ids_)
        static_cast<void>(id.release());  // lost, for nobody can say when they come
}

std::unique_ptr<DeviceLink> NcclLinks::link(Communicator& group, HostExchange host) {
    return std::make_unique<NcclLink>(*this, group, std::move(host));
}

void NcclLinks::settle(DeviceEvent* place) {
    std::unique_ptr<DeviceEvent> end;
    if (!place) {
        end = device().compute().record();
        place = end.get();
    }
    const auto is_reached = [place] { return place->is_done(); };
    while (!is_reached()) {
        Communicator* first = nullptr;
        for (Communicator* group : groups_)
            if (group->oldest_ordered() &&
                (!first || group->oldest_ordered() < first->oldest_ordered()))
                first = group;
        if (first) {
            first->settle_oldest(is_reached);
            continue;
        }
        // The queue waits for no other rank. But one may wait for a call that this host has not
        // given to the device yet, and is not to wait until the host returns.
        progress();
        if (std::ranges::none_of(lanes_, [](const NcclLane* lane) { return lane->is_waiting(); }))
            return;
        for (Communicator* group : groups_)
            group->progress();
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

void NcclLinks::progress() {
    for (NcclLane* lane : lanes_)
        lane->progress();
    while (!turns_.empty() && turns_.front()->give_next())
        turns_.pop_front();
    drop_ids();
}

void NcclLinks::drop_ids() {
    for (size_t i = ids_.size(); i-- > 0;)
        if (ids_[i]->is_done()) ids_.erase(ids_.begin() + static_cast<ptrdiff_t>(i));
}

std::string nccl_obstacle(Communicator& group, Device device) {
    std::string mine = "!";
    if (device.type == DeviceType::cpu)
        mine += "its tensors lie in host memory";  // and it looks for no library
    else if (!no_nccl_reason().empty())
        mine += no_nccl_reason();
    else
        mine = cuda_module().info(device.index).identity;
    const std::vector<std::string> all = group.all_gather("devices for NCCL", mine);
    for (size_t rank = 0; rank < all.size(); ++rank) {
        if (all[rank].starts_with('!'))
            return fmt::format("rank {}: {}", rank, all[rank].substr(1));
        for (size_t other = 0; other < rank; ++other)
            if (all[other] == all[rank])
                return fmt::format("ranks {} and {} share a device", other, rank);
    }
    return "";
}

DeviceConnection::DeviceConnection(Communicator& group, Stream& stream, DeviceWay way)
    : group_(group), stream_(stream) {
    if (stream.device().type == DeviceType::cpu) return;
    group.set_device(device_staging(stream));
    if (way == DeviceWay::staged) return;
    auto links = std::make_shared<NcclLinks>(nccl_library(), link_device(stream));
    group.set_links(links);
    stream.set_before_waiting([links](DeviceEvent* place) { links->settle(place); });
}

DeviceConnection::~DeviceConnection() {
    stream_.set_before_waiting({});
    try {
        group_.set_links(nullptr);
    } catch (...) {  // the group is not used again
    }
    group_.set_device(nullptr);
}

}  // namespace plinth::parallel
