// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "parallel/comm/nccl_links.h"
#include "tests/support/fake_device.h"

namespace plinth::test {

/// A thread that does its work in order, each piece a little late: a stream of a device.
class FakeQueue final : public DeviceQueue {
  public:
    struct Config {
        std::chrono::microseconds delay{200};
        bool is_deaf = false;  ///< waits for no event: a mutant
    };
    FakeQueue(FakeMemory& memory, const Config& config)
        : memory_(memory), config_(config), thread_([this] { work(); }) {}
    /// Does what it was given.
    ~FakeQueue() override {
        give({});
        thread_.join();
    }

    void give(std::function<void()> work) {
        const std::lock_guard lock(mutex_);
        queue_.push_back(std::move(work));
        changed_.notify_all();
    }
    void copy(void* to, const void* from, size_t bytes) override {
        give([=, this] { std::memmove(memory_.content_of(to), memory_.content_of(from), bytes); });
    }
    void set_zero(void* to, size_t bytes) override {
        give([=, this] { std::memset(memory_.content_of(to), 0, bytes); });
    }
    void synchronize() override {
        const auto event = record();
        static_cast<Event&>(*event).place->wait();
    }
    void synchronize(DeviceEvent& event) override { static_cast<Event&>(event).place->wait(); }
    std::unique_ptr<DeviceEvent> record() override {
        auto event = std::make_unique<Event>();
        give([place = event->place] { place->reach(); });
        return event;
    }
    void wait(DeviceEvent& event) override {
        if (config_.is_deaf) return;
        give([place = static_cast<Event&>(event).place] { place->wait(); });
    }
    std::unique_ptr<Graph> capture(FunctionRef<void()>) override {
        FAIL(internal, "this queue captures nothing");
    }
    void* handle() override { return this; }

  private:
    struct Place {
        std::mutex mutex;
        std::condition_variable changed;
        bool is_reached = false;
        void reach() {
            const std::lock_guard lock(mutex);
            is_reached = true;
            changed.notify_all();
        }
        void wait() {
            std::unique_lock lock(mutex);
            changed.wait(lock, [this] { return is_reached; });
        }
    };
    struct Event final : DeviceEvent {
        std::shared_ptr<Place> place = std::make_shared<Place>();
        bool is_done() override {
            const std::lock_guard lock(place->mutex);
            return place->is_reached;
        }
    };

    void work() {
        for (;;) {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return !queue_.empty(); });
            const std::function<void()> next = std::move(queue_.front());
            queue_.pop_front();
            lock.unlock();
            if (!next) return;
            std::this_thread::sleep_for(config_.delay);
            next();
        }
    }

    FakeMemory& memory_;
    Config config_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> queue_;
    std::thread thread_;
};

/// What joins the ranks' fake libraries: groups by their ids, letters between ranks.
struct FakeNetwork {
    struct Group {
        int size = 0;
        int connected = 0;
        /// From, to, number; a letter is gone when it was taken.
        std::map<std::tuple<int, int, int>, std::vector<std::byte>> letters;
        /// Of collectives by number: what each rank brought.
        std::map<int, std::map<int, std::vector<std::byte>>> brought;
    };
    std::mutex mutex;
    std::condition_variable changed;
    int ids = 0;
    size_t most_messages = 2048;  ///< in one exchange
    std::atomic<int> calls{0};    ///< of all ranks
    std::map<parallel::NcclId, Group> groups;
    /// How much later than the others a rank of the world connects a group of that name.
    std::function<std::chrono::milliseconds(int rank, const std::string& group)> delay = {};
    /// By rank of the world: the groups of the calls that got to its streams, in order.
    std::map<int, std::vector<std::string>> launched;
};

/// What a call does on the stream, where it lasts until all its bytes have been taken, or the
/// communicator has gone.
class FakeCalls {
  public:
    FakeCalls(FakeNetwork& network, FakeMemory& memory, FakeNetwork::Group& group, int rank)
        : network_(network), memory_(memory), group_(group), rank_(rank) {}

    void end() {
        const std::lock_guard lock(network_.mutex);
        is_ended_ = true;
        network_.changed.notify_all();
    }

    void exchange(const std::vector<parallel::Outgoing>& sends,
                  const std::vector<parallel::Incoming>& receives) {
        std::unique_lock lock(network_.mutex);
        std::vector<std::tuple<int, int, int>> sent;
        for (const auto& [peer, bytes] : sends) {
            sent.emplace_back(rank_, peer, sent_[peer]++);
            const std::byte* from = memory_.content_of(bytes.data());
            group_.letters[sent.back()] = {from, from + bytes.size()};
        }
        network_.changed.notify_all();
        for (const auto& [peer, bytes] : receives) {
            const std::tuple<int, int, int> wanted{peer, rank_, received_[peer]++};
            network_.changed.wait(lock,
                                  [&] { return is_ended_ || group_.letters.contains(wanted); });
            if (is_ended_) return;
            CHECK(group_.letters[wanted].size() == bytes.size(), "sizes differ");
            std::ranges::copy(group_.letters[wanted], memory_.content_of(bytes.data()));
            group_.letters.erase(wanted);
            network_.changed.notify_all();
        }
        network_.changed.wait(lock, [&] {
            return is_ended_ || std::ranges::none_of(sent, [&](const auto& letter) {
                       return group_.letters.contains(letter);
                   });
        });
    }

    void broadcast(parallel::Bytes bytes, int root) {
        std::byte* const at = memory_.content_of(bytes.data());
        const Pieces all = bring({at, bytes.size()});
        if (const auto found = all.find(root); found != all.end())
            std::ranges::copy(found->second, at);
    }

    /// In an order of its own: sums must not depend on it.
    template <typename T>
    void all_reduce(void* values, size_t count, parallel::Reduce reduce) {
        auto* to = reinterpret_cast<T*>(memory_.content_of(values));
        const Pieces all = bring(std::as_bytes(std::span(to, count)));
        for (auto piece = all.rbegin(); piece != all.rend(); ++piece) {
            const auto* from = reinterpret_cast<const T*>(piece->second.data());
            for (size_t i = 0; i < count; ++i)
                to[i] = piece == all.rbegin()             ? from[i]
                        : reduce == parallel::Reduce::sum ? static_cast<T>(to[i] + from[i])
                                                          : std::max(to[i], from[i]);
        }
    }

  private:
    using Pieces = std::map<int, std::vector<std::byte>>;

    /// What all ranks bring to the next collective; nothing if this one has ended.
    Pieces bring(parallel::ConstBytes mine) {
        std::unique_lock lock(network_.mutex);
        Pieces& brought = group_.brought[collectives_++];
        brought[rank_] = {mine.begin(), mine.end()};
        network_.changed.notify_all();
        network_.changed.wait(
            lock, [&] { return is_ended_ || static_cast<int>(brought.size()) == group_.size; });
        return is_ended_ ? Pieces{} : brought;
    }

    FakeNetwork& network_;
    FakeMemory& memory_;
    FakeNetwork::Group& group_;
    int rank_;
    bool is_ended_ = false;
    std::map<int, int> sent_, received_;
    int collectives_ = 0;
};

/// One rank's end of a group. Like the library's: not ready until all ranks have connected, nor for
/// a while after each call, which only then gets to the stream.
class FakeComm final : public parallel::NcclComm {
  public:
    struct Place {
        int world_rank = 0;
        std::string name;
        int rank = 0;
        int size = 1;
    };
    FakeComm(FakeNetwork& network, FakeMemory& memory, const parallel::NcclId& id, Place place)
        : network_(network), place_(std::move(place)) {
        if (network_.delay)
            ready_ =
                std::chrono::steady_clock::now() + network_.delay(place_.world_rank, place_.name);
        const std::lock_guard lock(network_.mutex);
        group_ = &network_.groups[id];
        group_->size = place_.size;
        ++group_->connected;
        calls_ = std::make_shared<FakeCalls>(network, memory, *group_, place_.rank);
    }
    ~FakeComm() override { calls_->end(); }

    bool is_ready() override {
        {
            const std::lock_guard lock(network_.mutex);
            if (group_->connected < group_->size) return false;
        }
        if (std::chrono::steady_clock::now() < ready_) return false;
        if (polls_ == 0) return true;
        if (--polls_ == 0) call_();
        return false;
    }
    void exchange(std::span<const parallel::Outgoing> sends,
                  std::span<const parallel::Incoming> receives, void* stream) override {
        CHECK(sends.size() + receives.size() <= network_.most_messages, "{} messages at once",
              sends.size() + receives.size());
        give(stream,
             [calls = calls_, out = std::vector(sends.begin(), sends.end()),
              in = std::vector(receives.begin(), receives.end())] { calls->exchange(out, in); });
    }
    void all_reduce(void* values, size_t count, DType dtype, parallel::Reduce reduce,
                    void* stream) override {
        give(stream, [=, calls = calls_] {
            if (dtype == DType::i64) return calls->all_reduce<int64_t>(values, count, reduce);
            if (dtype == DType::f32) return calls->all_reduce<float>(values, count, reduce);
            calls->all_reduce<double>(values, count, reduce);
        });
    }
    void broadcast(parallel::Bytes bytes, int root, void* stream) override {
        give(stream, [=, calls = calls_] { calls->broadcast(bytes, root); });
    }
    bool close() override { return is_ready(); }

  private:
    void give(void* stream, std::function<void()> work) {
        CHECK(polls_ == 0, "a call before the one before was on its way");
        ++network_.calls;
        polls_ = 3;
        call_ = [this, stream, work = std::move(work)] {
            static_cast<FakeQueue*>(stream)->give(work);
            const std::lock_guard lock(network_.mutex);
            network_.launched[place_.world_rank].push_back(place_.name);
        };
    }

    FakeNetwork& network_;
    Place place_;
    std::chrono::steady_clock::time_point ready_{};
    FakeNetwork::Group* group_ = nullptr;
    std::shared_ptr<FakeCalls> calls_;
    int polls_ = 0;
    std::function<void()> call_;
};

class FakeNccl final : public parallel::NcclLibrary {
  public:
    FakeNccl(FakeNetwork& network, FakeMemory& memory, int world_rank)
        : network_(network), memory_(memory), world_rank_(world_rank) {}
    std::string version() override { return "fake"; }
    size_t most_messages() const override { return network_.most_messages; }
    parallel::NcclId new_id() override {
        const std::lock_guard lock(network_.mutex);
        parallel::NcclId id{};
        const int number = ++network_.ids;
        std::memcpy(id.data(), &number, sizeof(number));
        return id;
    }
    std::unique_ptr<parallel::NcclComm> connect(const parallel::NcclId& id, int rank, int size,
                                                const std::string& name) override {
        CHECK(id != parallel::NcclId{}, "connected before the id had come");
        ++connections_;
        return std::make_unique<FakeComm>(
            network_, memory_, id,
            FakeComm::Place{.world_rank = world_rank_, .name = name, .rank = rank, .size = size});
    }
    int connections() const { return connections_; }

  private:
    FakeNetwork& network_;
    FakeMemory& memory_;
    int world_rank_;
    int connections_ = 0;
};

/// A rank's device with links to those of other ranks.
class FakeLinkedDevice final : public BufferMemory {
  public:
    struct Config {
        FakeQueue::Config compute = {};
        FakeQueue::Config link = {};
    };
    FakeLinkedDevice(parallel::Communicator& comm, FakeNetwork& network, const Config& config)
        : comm_(comm), compute_(memory_, config.compute), nccl_(network, memory_, comm.rank()) {
        comm.set_device(
            std::make_shared<parallel::DeviceStaging>(std::make_unique<Copies>(memory_, compute_)));
        links_ = std::make_shared<parallel::NcclLinks>(
            nccl_, std::make_unique<Device>(memory_, compute_, config.link));
        comm.set_links(links_);
    }
    ~FakeLinkedDevice() override {
        try {
            comm_.set_links(nullptr);
        } catch (const Error&) {  // the test has failed already
        }
        comm_.set_device(nullptr);
    }
    FakeNccl& nccl() { return nccl_; }
    parallel::NcclLinks& links() { return *links_; }
    FakeQueue& compute() { return compute_; }

    std::byte* allocate(size_t bytes) override { return memory_.allocate(bytes); }
    void write(std::byte* to, std::span<const std::byte> from) override {
        compute_.give([this, to, values = std::vector(from.begin(), from.end())] {
            std::ranges::copy(values, memory_.content_of(to));
        });
    }
    void read(std::span<std::byte> to, const std::byte* from) override {
        links_->settle();
        compute_.synchronize();
        std::copy_n(memory_.content_of(from), to.size(), to.begin());
    }
    void clear() override {}

  private:
    struct Copies final : parallel::DeviceCopies {
        Copies(FakeMemory& at, FakeQueue& queue) : memory(at), compute(queue) {}
        bool is_device(const void* data) const override { return memory.is_device(data); }
        void to_host(void* host, const void* device, size_t bytes) override {
            compute.copy(host, device, bytes);
        }
        void to_device(void* device, const void* host, size_t bytes) override {
            compute.copy(device, host, bytes);
        }
        void within_device(void* to, const void* from, size_t bytes) override {
            compute.copy(to, from, bytes);
        }
        void synchronize() override { compute.synchronize(); }
        MemorySource& host_memory() override { return plinth::host_memory(); }
        FakeMemory& memory;
        FakeQueue& compute;
    };
    struct Queue final : parallel::LinkQueue {
        Queue(FakeMemory& at, const FakeQueue::Config& config) : memory(at), work(at, config) {}
        DeviceQueue& queue() override { return work; }
        void add(float* sum, const float* values, size_t count) override {
            work.give([=, this] {
                auto* to = reinterpret_cast<float*>(memory.content_of(sum));
                const auto* from = reinterpret_cast<const float*>(memory.content_of(values));
                for (size_t i = 0; i < count; ++i)
                    to[i] += from[i];
            });
        }
        FakeMemory& memory;
        FakeQueue work;
    };
    struct Device final : parallel::LinkDevice, MemorySource {
        Device(FakeMemory& at, FakeQueue& queue, const FakeQueue::Config& of_links)
            : content(at), computing(queue), config(of_links) {}
        DeviceQueue& compute() override { return computing; }
        std::unique_ptr<parallel::LinkQueue> new_queue() override {
            return std::make_unique<Queue>(content, config);
        }
        MemorySource& memory() override { return *this; }
        plinth::Device device() const override { return {DeviceType::cuda, 0}; }
        void* allocate(size_t bytes) override { return content.allocate(bytes); }
        void free(void*, size_t) override {}
        FakeMemory& content;
        FakeQueue& computing;
        FakeQueue::Config config;
    };

    parallel::Communicator& comm_;
    FakeMemory memory_;
    FakeQueue compute_;
    FakeNccl nccl_;
    std::shared_ptr<parallel::NcclLinks> links_;
};

}  // namespace plinth::test
