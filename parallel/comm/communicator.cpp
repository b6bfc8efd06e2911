// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/communicator.h"

#include <exception>

#include "kernels/runtime/trace.h"

namespace plinth::parallel {

using Clock = std::chrono::steady_clock;

// --- Pending ----------------------------------------------------------------------------------

Pending::Pending(Communicator& communicator, int64_t sequence, std::string label,
                 MessageEnd message, std::unique_ptr<Transfer> transfer)
    : communicator_(&communicator),
      sequence_(sequence),
      label_(std::move(label)),
      message_(message),
      transfer_(std::move(transfer)) {}

Pending& Pending::operator=(Pending&& other) noexcept {
    if (this == &other) return *this;
    drop();
    communicator_ = other.communicator_;
    sequence_ = other.sequence_;
    label_ = std::move(other.label_);
    message_ = other.message_;
    transfer_ = std::move(other.transfer_);
    return *this;
}

bool Pending::test() {
    if (transfer_ && transfer_->test()) transfer_ = nullptr;
    return is_done();
}

void Pending::wait() {
    if (!transfer_) return;
    if (transfer_->order()) return communicator_->keep(std::move(*this));
    if (test()) return;
    bool is_ordered = false;
    communicator_->seconds_waited_ +=
        communicator_->wait_for(*this, [&] { return is_ordered = transfer_->order(); });
    if (is_ordered) communicator_->keep(std::move(*this));
}

void Pending::drop() noexcept {
    if (transfer_) communicator_->poison(label_, std::move(transfer_));
}

// --- Communicator: what is under way -------------------------------------------------------------

Communicator::Communicator(int rank, int size, std::string host, CommunicatorOptions options)
    : rank_(rank),
      size_(size),
      host_(std::move(host)),
      options_(std::move(options)),
      sent_(static_cast<size_t>(size)),
      received_(static_cast<size_t>(size)) {
    if (!options_.activity) options_.activity = std::make_shared<Activity>();
    options_.activity->join(options_.group, options_.name, size_);
}

Communicator::~Communicator() {
    for (Ordered& each : ordered_)
        each.pending.transfer_ = nullptr;  // the link waits for what the device still does
    options_.activity->leave(options_.group);
}

void Communicator::set_links(std::shared_ptr<DeviceLinks> links) {
    CHECK(!links || options_.device, "links of group '{}' without a device", name());
    // Not while an error unwinds this rank alone: the others will not come.
    if (is_sound() && std::uncaught_exceptions() == 0) settle();
    link_ = nullptr;
    has_open_link_ = false;
    options_.links = std::move(links);
}

DeviceLink& Communicator::link() {
    if (!link_)
        link_ = options_.links->link(*this, [this](const Call& call, std::vector<Outgoing> sends,
                                                   std::vector<Incoming> receives) {
            return exchange(call, std::move(sends), std::move(receives));
        });
    return *link_;
}

CommunicatorOptions Communicator::options_of_part(int color, std::string name) {
    // A number that all members come to without a word: that of this group, which split, the part.
    uint64_t group = options_.group;
    for (const uint64_t word : {++parts_, static_cast<uint64_t>(color)})
        group = (group ^ (word + 1)) * 0x9e3779b97f4a7c15u;
    return {.name = std::move(name),
            .time_limit = options_.time_limit,
            .group = group ^ (group >> 29),
            .activity = options_.activity,
            .device = options_.device,
            .links = options_.links};
}

Communicator::Call Communicator::begin(std::string label, int calls) {
    REQUIRE(ranks, is_sound(), "rank {} on {}: cannot start '{}' in group '{}' after a failure: {}",
            rank_, host_, label, name(), failure_);
    if (options_.links && !has_open_link_ && size_ > 1) {
        has_open_link_ = true;
        link().open_collectives({.sequence = next_++, .label = "link of devices"});
    }
    if (options_.links) options_.links->progress();
    Call call{.sequence = next_, .label = std::move(label)};
    next_ += calls;
    whereabouts_.begun = next_ - 1;
    whereabouts_.label = call.label;
    options_.activity->begin(options_.group, call.sequence, next_ - 1, call.label);
    moved();
    return call;
}

Communicator::Call Communicator::message(std::string label, bool sends, int peer) {
    REQUIRE(ranks, is_sound(), "rank {} on {}: cannot start '{}' in group '{}' after a failure: {}",
            rank_, host_, label, name(), failure_);
    check_peer(label, peer);
    CHECK(peer != rank_, "{}: rank {} sends to itself", label, rank_);
    const MessageEnd end{.peer = peer,
                         .sends = sends,
                         .number = ++(sends ? sent_ : received_)[static_cast<size_t>(peer)]};
    options_.activity->begin_message(options_.group, end);
    return {.channel = Call::Channel::message,
            .sequence = end.number,
            .label = std::move(label),
            .message = end};
}

Pending Communicator::pending(Call call, std::unique_ptr<Transfer> transfer) {
    return Pending(*this, call.channel == Call::Channel::collective ? call.sequence : 0,
                   std::move(call.label), call.message, std::move(transfer));
}

void Communicator::check_peer(const std::string& label, int peer) const {
    CHECK(peer >= 0 && peer < size_, "{}: rank {} in group '{}' of {}", label, peer, name(), size_);
}

// --- Communicator: waiting ----------------------------------------------------------------------

void Communicator::keep(Pending pending) {
    ordered_.push_back({options_.links->next_number(), std::move(pending)});
    while (!ordered_.empty() && ordered_.front().pending.test())
        ordered_.pop_front();
}

std::optional<uint64_t> Communicator::oldest_ordered() const {
    if (ordered_.empty()) return std::nullopt;
    return ordered_.front().number;
}

void Communicator::settle_oldest(FunctionRef<bool()> is_enough) {
    Pending& oldest = ordered_.front().pending;
    const double seconds = oldest.test() ? 0.0 : wait_for(oldest, is_enough);
    if (!oldest.is_done()) return;  // it was the own device that was waited for
    seconds_waited_ += seconds;
    ordered_.pop_front();
}

void Communicator::settle() {
    while (!ordered_.empty())
        settle_oldest([] { return false; });
}

double Communicator::wait_for(Pending& pending, FunctionRef<bool()> is_enough) {
    const TraceRange range(pending.label_.c_str());
    const Clock::time_point began = Clock::now();
    whereabouts_.waiting = true;
    options_.activity->wait(options_.group, pending.sequence_, pending.label_, pending.message_);
    moved();
    while (!is_enough() && !pending.test()) {
        if (options_.links) {
            // Another group's calls may be what a peer waits for; and a peer may have aborted.
            options_.links->progress();
            progress();
        }
        const std::chrono::duration<double> waited = Clock::now() - began;
        if (waited > options_.time_limit) report_hang(pending);
        relax(waited);
    }
    whereabouts_.waiting = false;
    options_.activity->go_on();
    moved();
    return std::chrono::duration<double>(Clock::now() - began).count();
}

void Communicator::report_hang(const Pending& pending) {
    const std::string call = pending.sequence_ > 0 ? fmt::format("collective #{} '{}'",
                                                                 pending.sequence_, pending.label_)
                                                   : fmt::format("message '{}'", pending.label_);
    failure_ = fmt::format("{} ran out of time", call);
    if (link_) link_->abort();
    const std::string missing = missing_ranks(pending.sequence_);
    FAIL(ranks, "rank {} on {}: {} of group '{}' did not end within {} s (run.timeout): {}", rank_,
         host_, call, name(), options_.time_limit.count(),
         missing.empty() ? "every rank has begun it, so the transport is stuck" : missing);
}

void Communicator::poison(const std::string& label, std::unique_ptr<Transfer> transfer) noexcept {
    if (failure_.empty()) failure_ = fmt::format("'{}' was dropped before it had ended", label);
    dropped_.push_back(std::move(transfer));
}

}  // namespace plinth::parallel
