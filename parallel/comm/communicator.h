// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/runtime/dtype.h"
#include "kernels/runtime/error.h"
#include "kernels/runtime/function_ref.h"
#include "parallel/comm/activity.h"
#include "parallel/comm/device_link.h"
#include "parallel/comm/device_staging.h"
#include "parallel/comm/transfer.h"

namespace plinth::parallel {

class Communicator;

/// A collective or message under way. The caller's buffers belong to it until `wait()` returns or
/// `test()` is true; those in device memory may then be used by the device's stream. Destroying it
/// earlier poisons the communicator: no later call can be matched.
class Pending {
  public:
    Pending() = default;  ///< done
    Pending(Pending&&) noexcept = default;
    Pending& operator=(Pending&& other) noexcept;
    ~Pending() { drop(); }

    bool is_done() const { return transfer_ == nullptr; }
    /// Advances without blocking; true when done.
    bool test();
    /// Blocks until done; what goes from device to device only until the device's stream is told to
    /// wait for it. After the communicator's time limit it throws an error of kind ranks that names
    /// this rank and host, the call, and where every other rank is.
    void wait();

  private:
    friend class Communicator;
    Pending(Communicator& communicator, int64_t sequence, std::string label, MessageEnd message,
            std::unique_ptr<Transfer> transfer);
    void drop() noexcept;

    Communicator* communicator_ = nullptr;
    int64_t sequence_ = 0;
    std::string label_;
    MessageEnd message_;
    std::unique_ptr<Transfer> transfer_;
};

struct CommunicatorOptions {
    std::string name = "world";                       ///< of the group, in messages
    std::chrono::duration<double> time_limit{600.0};  ///< a wait longer than this is a hang
    uint64_t group = 0;                               ///< the same on all members, and only there
    /// Of the rank; its groups share one. Null: a fresh one.
    std::shared_ptr<Activity> activity = {};
    /// Of the rank; null: no buffer lies in device memory.
    std::shared_ptr<DeviceStaging> device = {};
    /// Of the rank; null: device memory is staged through the host.
    std::shared_ptr<DeviceLinks> links = {};
};

/// A group of ranks that call the same collectives in the same order, each with a label of the
/// caller's. Calls are numbered; number and label appear in hang reports. Used by one thread a
/// rank. Errors of peers and of the transport are of kind ranks.
///
/// Sums of integers are exact. Sums of floats are folded in rank order, whatever the backend, so
/// that two backends agree bit for bit; a maximum over NaNs is unspecified.
/// Buffers lie in host memory or, after `set_device`, in device memory.
class Communicator {
  public:
    virtual ~Communicator();
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    int rank() const { return rank_; }
    int size() const { return size_; }
    const std::string& host() const { return host_; }
    const std::string& name() const { return options_.name; }
    /// What this rank is at, in all its groups.
    Activity& activity() const { return *options_.activity; }
    /// From now on, here and in groups that are split off later, buffers may lie in device memory:
    /// they are staged through the host. What a call reads must have been given to the device's
    /// stream before it starts; what it receives may be used by that stream once it has ended.
    /// Null: in host memory only.
    void set_device(std::shared_ptr<DeviceStaging> device) { options_.device = std::move(device); }
    const std::shared_ptr<DeviceStaging>& device() const { return options_.device; }
    /// From now on, here and in groups that are split off later, device memory goes from device to
    /// device; integers and maxima of all kinds, sums of fp32, and bytes. Collective in effect: all
    /// ranks set it between the same calls. Null: staged. Needs a device.
    void set_links(std::shared_ptr<DeviceLinks> links);
    /// Number (DeviceLinks::next_number) of the oldest call that the device's stream was told to
    /// wait for and that is not known to be done; none: there is no such call.
    std::optional<uint64_t> oldest_ordered() const;
    /// Waits for that call, or until `is_enough`: before the host waits for the stream, so that it
    /// is a call of this group that runs out of time.
    void settle_oldest(FunctionRef<bool()> is_enough);
    void set_time_limit(std::chrono::duration<double> limit) { options_.time_limit = limit; }

    /// sends[p] goes to rank p; receives[p] is filled by rank p. Both sides agree on every size.
    /// The rank's own piece is copied, unless both spans are the same memory or receives is empty.
    Pending start_all_to_all(std::string label, std::span<const ConstBytes> sends,
                             std::span<const Bytes> receives);
    /// pieces[p] is filled with rank p's `mine`, on every rank. `mine` may lie in pieces[rank].
    Pending start_all_gather(std::string label, ConstBytes mine, std::span<const Bytes> pieces);
    /// The root's bytes on every rank.
    Pending start_broadcast(std::string label, Bytes bytes, int root);
    /// In place on every rank. T is int64_t, whose sums wrap around, float or double.
    template <typename T>
    Pending start_all_reduce(std::string label, std::span<T> values, Reduce reduce) {
        return start_reduction(std::move(label), values.data(), values.size(), DTypeOf<T>::value,
                               reduce);
    }
    /// Messages between two ranks match in the order in which they were started.
    Pending start_send(std::string label, ConstBytes bytes, int to);
    Pending start_receive(std::string label, Bytes bytes, int from);

    void all_to_all(std::string label, std::span<const ConstBytes> sends,
                    std::span<const Bytes> receives) {
        start_all_to_all(std::move(label), sends, receives).wait();
    }
    void all_gather(std::string label, ConstBytes mine, std::span<const Bytes> pieces) {
        start_all_gather(std::move(label), mine, pieces).wait();
    }
    /// Every rank's bytes, of any length, in rank order.
    std::vector<std::string> all_gather(const std::string& label, const std::string& mine);
    void broadcast(std::string label, Bytes bytes, int root) {
        start_broadcast(std::move(label), bytes, root).wait();
    }
    template <typename T>
    void all_reduce(std::string label, std::span<T> values, Reduce reduce) {
        start_all_reduce(std::move(label), values, reduce).wait();
    }
    void send(std::string label, ConstBytes bytes, int to) {
        start_send(std::move(label), bytes, to).wait();
    }
    void receive(std::string label, Bytes bytes, int from) {
        start_receive(std::move(label), bytes, from).wait();
    }
    /// Both at once: cannot deadlock in a ring.
    void send_receive(const std::string& label, ConstBytes out, int to, Bytes in, int from);
    void barrier(std::string label);

    /// The ranks with the same `color`, in the order of their ranks here. Collective.
    virtual std::unique_ptr<Communicator> split(int color, std::string name) = 0;
    /// Lets started calls move and answers a peer that asks where this rank is. Cheap: call it
    /// between pieces of work. Throws if a peer has aborted.
    virtual void progress() = 0;
    /// Ends the whole job: every other rank's calls fail or its process ends with the kind's exit
    /// code.
    virtual void abort(const std::string& reason, ErrorKind kind) = 0;

    /// Time spent inside blocking waits so far, seconds.
    double seconds_waited() const { return seconds_waited_; }

  protected:
    Communicator(int rank, int size, std::string host, CommunicatorOptions options);

    using Outgoing = parallel::Outgoing;
    using Incoming = parallel::Incoming;
    using Call = parallel::Call;
    /// Where this rank is, for the reports of others.
    struct Whereabouts {
        int64_t begun = 0;     ///< number of the newest collective it has begun; 0 for none
        std::string label;     ///< of that one
        bool waiting = false;  ///< in a blocking wait now
    };

    /// Moves bytes between pairs of ranks; no message is empty and none goes to this rank.
    virtual std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                               std::vector<Incoming> receives) = 0;
    /// A reduction whose result does not depend on the order. The default gathers and folds.
    virtual std::unique_ptr<Transfer> exact_reduction(const Call& call, void* values, size_t count,
                                                      DType dtype, Reduce reduce);
    virtual std::unique_ptr<Transfer> broadcast_from(const Call& call, Bytes bytes, int root);
    /// Called between tests of a blocking wait that has lasted `waited`.
    virtual void relax(std::chrono::duration<double> waited) = 0;
    /// One clause on every other rank that is not past collective `sequence`; "" if all have begun
    /// it.
    virtual std::string missing_ranks(int64_t sequence) = 0;
    /// Called whenever `whereabouts()` has changed.
    virtual void moved() {}

    const Whereabouts& whereabouts() const { return whereabouts_; }
    const CommunicatorOptions& options() const { return options_; }
    /// Of a part that `split` makes; called once in each split.
    CommunicatorOptions options_of_part(int color, std::string name);
    /// False once a call failed or was dropped: the group cannot be used or freed in order.
    bool is_sound() const { return failure_.empty(); }

  private:
    friend class Pending;
    Call begin(std::string label, int calls = 1);
    Call message(std::string label, bool sends, int peer);
    Pending pending(Call call, std::unique_ptr<Transfer> transfer);
    Pending start_reduction(std::string label, void* values, size_t count, DType dtype,
                            Reduce reduce);
    std::unique_ptr<Transfer> scattered_sum(const Call& call, const void* values,
                                            std::span<const size_t> counts, void* mine,
                                            DType dtype);
    DeviceLink& link();
    bool goes_by_link(const Call& call, std::span<const Outgoing> sends,
                      std::span<const Incoming> receives) const;
    std::unique_ptr<Transfer> move(const Call& call, StagedCall staged, std::vector<Outgoing> sends,
                                   std::vector<Incoming> receives);
    std::unique_ptr<Transfer> gather(const Call& call, ConstBytes mine,
                                     std::span<const Bytes> pieces, StagedCall staged);
    std::unique_ptr<Transfer> ordered_sum(const Call& call, Bytes values, DType dtype);
    /// Until it is done or `is_enough`. Seconds.
    double wait_for(Pending& pending, FunctionRef<bool()> is_enough);
    void keep(Pending pending);
    void settle();
    [[noreturn]] void report_hang(const Pending& pending);
    void check_peer(const std::string& label, int peer) const;
    void poison(const std::string& label, std::unique_ptr<Transfer> transfer) noexcept;

    int rank_;
    int size_;
    std::string host_;
    CommunicatorOptions options_;
    int64_t next_ = 1;
    uint64_t parts_ = 0;                    ///< splits so far
    std::vector<int64_t> sent_, received_;  ///< messages so far, by peer
    Whereabouts whereabouts_;
    double seconds_waited_ = 0.0;
    std::string failure_;
    std::vector<std::unique_ptr<Transfer>> dropped_;  ///< their memory may still be written to
    std::unique_ptr<DeviceLink> link_;
    bool has_open_link_ = false;
    struct Ordered {
        uint64_t number;
        Pending pending;
    };
    std::deque<Ordered> ordered_;  ///< the device's stream waits for them
};

}  // namespace plinth::parallel
