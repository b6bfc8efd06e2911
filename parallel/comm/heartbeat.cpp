// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/heartbeat.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>

#include "parallel/comm/datagrams.h"
#include "parallel/comm/hang_report.h"
#include "parallel/comm/hang_watch.h"
#include "parallel/comm/pace.h"
#include "parallel/comm/process.h"

namespace plinth::parallel {

namespace {

using Clock = std::chrono::steady_clock;
using Token = std::array<uint64_t, 2>;

/// Beats in the limit. Four at least must be lost before a rank is silent, whatever the limit.
constexpr double beats_per_limit = 40.0;
/// Every so many beats of a rank are answered.
constexpr uint64_t beats_per_answer = 4;
/// Seconds that mpirun has to end the ranks by itself.
constexpr double grace = 3.0;
/// Seconds that the report may take to be printed.
constexpr std::chrono::seconds report_time{2};

/// What a rank tells the others at the start.
struct Peer {
    std::string host;
    int pid = 0;
    uint64_t started = 0;
    uint16_t port = 0;
    std::vector<uint32_t> addresses;   ///< where it may be reached
    std::optional<Address> confirmed;  ///< where its newest beat came from
    std::optional<Process> process;    ///< of this machine only
};

std::string to_text(const Peer& peer, const Token& token) {
    std::string text = fmt::format("{} {} {} {} {} {}", peer.host, peer.pid, peer.started,
                                   peer.port, token[0], token[1]);
    for (const uint32_t address : peer.addresses)
        text += fmt::format(" {}", address);
    return text;
}

Peer peer_of(const std::string& text, Token& token) {
    Peer peer;
    std::istringstream words(text);
    words >> peer.host >> peer.pid >> peer.started >> peer.port >> token[0] >> token[1];
    for (uint32_t address = 0; words >> address;)
        peer.addresses.push_back(address);
    return peer;
}

std::string wanted_interfaces() {
    const char* wanted = std::getenv("OMPI_MCA_btl_tcp_if_include");
    return wanted ? wanted : "";
}

Token random_token() {
    std::random_device device;
    const auto word = [&] { return (uint64_t{device()} << 32) | device(); };
    return {word(), word()};
}

}  // namespace

class Heartbeat::Thread {
  public:
    Thread(Communicator& world, HeartbeatConfig config);
    ~Thread();

  private:
    void meet(Communicator& world);
    void choose_targets();
    void run();
    void advance_clock();
    void look_at_processes();
    void send_beat(Beat::Kind kind);
    void send_to(int rank, const Beat& beat);
    void receive();
    void warn_of_unheard();
    bool is_in_charge() const;
    void judge();
    [[noreturn]] void end_job(const std::string& report);
    [[noreturn]] void end_rank();
    std::string report_of(const Verdict& verdict) const;
    int ranks() const { return static_cast<int>(peers_.size()); }
    Peer& peer(int rank) { return peers_[static_cast<size_t>(rank)]; }
    const Peer& peer(int rank) const { return peers_[static_cast<size_t>(rank)]; }

    HeartbeatConfig config_;
    int rank_;
    double period_;
    HangLimits limits_;
    Activity& activity_;
    Pace pace_;
    HangWatch watch_;
    std::vector<Peer> peers_;
    std::optional<Process> launcher_;
    std::unique_ptr<DatagramSocket> socket_;
    Token token_{};
    std::vector<int> targets_;  ///< ranks that every beat goes to
    std::vector<int> judges_;   ///< who reports, the first that is still there
    uint64_t number_ = 0;
    /// Seconds, but no longer than a few periods between two looks: while the machine or this
    /// process was suspended, nobody was silent.
    double now_ = 0.0;
    Clock::time_point looked_ = Clock::now();
    bool has_warned_ = false;
    std::atomic<bool> failed_{false};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

Heartbeat::Thread::Thread(Communicator& world, HeartbeatConfig config)
    : config_(std::move(config)),
      rank_(world.rank()),
      period_(config_.limit / beats_per_limit),
      limits_{
          .silence = 0.75 * config_.limit, .confirm = 0.5 * config_.limit, .gather = 3 * period_},
      activity_(world.activity()),
      pace_(limits_.silence, config_.patience),
      watch_(world.size(), limits_) {
    meet(world);
    choose_targets();
    thread_ = std::thread([this] { run(); });
}

Heartbeat::Thread::~Thread() {
    if (std::uncaught_exceptions() > 0) failed_ = true;
    stop_ = true;
    // Wakes the thread.
    const std::byte nothing{};
    socket_->send({.host = loopback, .port = socket_->port()}, {&nothing, 1});
    thread_.join();
}

void Heartbeat::Thread::meet(Communicator& world) {
    const std::vector<std::string> hosts = world.all_gather("heartbeat hosts", world.host());
    const bool is_one_host =
        std::ranges::all_of(hosts, [&](const std::string& host) { return host == hosts[0]; });
    socket_ = std::make_unique<DatagramSocket>(is_one_host ? loopback : 0);
    Peer own{.host = world.host(),
             .pid = ::getpid(),
             .started = process_start(::getpid()),
             .port = socket_->port(),
             .addresses = {loopback},
             .confirmed = {},
             .process = {}};
    if (!is_one_host) own.addresses = own_addresses(wanted_interfaces());
    token_ = random_token();
    Token first{};
    for (const std::string& text : world.all_gather("heartbeat addresses", to_text(own, token_))) {
        Token theirs{};
        peers_.push_back(peer_of(text, theirs));
        if (peers_.size() == 1) first = theirs;
        Peer& added = peers_.back();
        if (added.host == own.host && ranks() - 1 != rank_)
            added.process = Process::open(added.pid, added.started);
    }
    token_ = first;
    launcher_ = launcher_process();
}

void Heartbeat::Thread::choose_targets() {
    const auto first_of = [&](auto&& condition) {
        for (int rank = 0; rank < ranks(); ++rank)
            if (condition(peer(rank))) return rank;
        return -1;
    };
    int deputy = first_of([&](const Peer& one) { return one.host != peer(0).host; });
    if (deputy < 0) deputy = 1;
    const int local = first_of([&](const Peer& one) { return one.host == peer(rank_).host; });
    // Last, a rank whose three judges are lost speaks for itself.
    for (const int judge : {0, deputy, local, rank_})
        if (std::ranges::count(judges_, judge) == 0) judges_.push_back(judge);
    targets_ = judges_;
    targets_.push_back((rank_ + 1) % ranks());
    // The judges of other machines must know whether those before them are there.
    for (int rank = 0; (rank_ == 0 || rank_ == deputy) && rank < ranks(); ++rank)
        if (rank == first_of([&](const Peer& one) { return one.host == peer(rank).host; }))
            targets_.push_back(rank);
    if (rank_ == 0) targets_.push_back(deputy);
    if (rank_ == deputy) targets_.push_back(0);
    std::ranges::sort(targets_);
    targets_.erase(std::unique(targets_.begin(), targets_.end()), targets_.end());
    std::erase(targets_, rank_);
}

void Heartbeat::Thread::run() {
    for (double next = 0.0; !stop_;) {
        advance_clock();
        receive();
        if (now_ >= next) {
            next = now_ + period_;
            send_beat(Beat::Kind::alive);
            look_at_processes();
            warn_of_unheard();
            judge();
        }
        socket_->wait(next - now_);
    }
    // Datagrams may be lost, and a farewell is not repeated by the next beat.
    for (int times = 0; times < 3; ++times)
        send_beat(failed_ ? Beat::Kind::failed : Beat::Kind::left);
}

void Heartbeat::Thread::advance_clock() {
    const Clock::time_point now = Clock::now();
    now_ += std::min(std::chrono::duration<double>(now - looked_).count(), 4 * period_);
    looked_ = now;
}

void Heartbeat::Thread::send_beat(Beat::Kind kind) {
    const Activity::Look look = activity_.look();
    pace_.look(look.phase, look.ticks, look.waits.has_value(), now_);
    Beat beat = beat_of(look);
    beat.token = token_;
    beat.kind = kind;
    beat.rank = rank_;
    beat.number = ++number_;
    beat.quiet = static_cast<float>(pace_.quiet());
    beat.limit = static_cast<float>(pace_.limit());
    const int before = (rank_ + ranks() - 1) % ranks();
    const Beat* theirs = watch_.last(before);
    if (theirs && theirs->kind == Beat::Kind::alive && watch_.is_lost(before, now_)) {
        beat.unheard = before;
        beat.unheard_seconds = static_cast<float>(watch_.age(before, now_));
    }
    watch_.hear(beat, now_);
    // The last word is for all that may listen: those who send hear the answers.
    for (int rank = 0; rank < ranks(); ++rank)
        if (rank != rank_ &&
            (std::ranges::binary_search(targets_, rank) || kind == Beat::Kind::end ||
             (kind != Beat::Kind::alive && watch_.last(rank))))
            send_to(rank, beat);
}

void Heartbeat::Thread::send_to(int rank, const Beat& beat) {
    const auto bytes = std::as_bytes(std::span(&beat, 1));
    const Peer& to = peer(rank);
    if (to.confirmed) socket_->send(*to.confirmed, bytes);
    // Until an address is known to work, and again when it works no more, all are tried.
    if (to.confirmed && watch_.age(rank, now_) < limits_.silence / 3) return;
    for (const uint32_t address : to.addresses)
        socket_->send({.host = address, .port = to.port}, bytes);
}

void Heartbeat::Thread::receive() {
    Beat beat;
    while (const auto from = socket_->receive(std::as_writable_bytes(std::span(&beat, 1)))) {
        if (!beat.is_sound(ranks()) || beat.token != token_ || beat.rank == rank_) continue;
        if (beat.kind == Beat::Kind::end) end_rank();
        peer(beat.rank).confirmed = *from;
        watch_.hear(beat, now_);
        const bool is_target = std::ranges::binary_search(targets_, beat.rank);
        if (is_target || beat.number % beats_per_answer != 1 || !watch_.last(rank_)) continue;
        socket_->send(*from, std::as_bytes(std::span(watch_.last(rank_), 1)));
    }
}

void Heartbeat::Thread::look_at_processes() {
    for (int rank = 0; rank < ranks(); ++rank)
        if (peer(rank).process && peer(rank).process->has_ended()) watch_.process_ended(rank, now_);
}

void Heartbeat::Thread::warn_of_unheard() {
    if (has_warned_ || rank_ != 0 || now_ < 3 * config_.limit) return;
    has_warned_ = true;
    std::vector<int> unheard;
    for (int rank = 0; rank < ranks(); ++rank)
        if (!watch_.last(rank)) unheard.push_back(rank);
    if (!unheard.empty())
        config_.warn(fmt::format(
            "rank 0 hears no heartbeat of rank {}: UDP between their machines does not pass, and a "
            "hang of theirs is noticed after run.timeout only",
            ranges_text(unheard)));
}

bool Heartbeat::Thread::is_in_charge() const {
    for (const int judge : judges_) {
        if (judge == rank_) return true;
        if (!watch_.is_lost(judge, now_)) return false;
    }
    return false;
}

void Heartbeat::Thread::judge() {
    if (stop_ || !is_in_charge()) return;
    if (const auto verdict = watch_.judge(now_)) end_job(report_of(*verdict));
}

std::string Heartbeat::Thread::report_of(const Verdict& verdict) const {
    std::vector<RankPlace> places;
    for (const Peer& one : peers_)
        places.push_back(
            {.host = one.host, .pid = one.pid, .state = one.process ? one.process->state() : '\0'});
    return hang_report(verdict, watch_, places, rank_, now_, config_.exit_code);
}

void Heartbeat::Thread::end_job(const std::string& report) {
    // The pipe to mpirun or the disk may be stuck as well: no longer than it deserves.
    struct Printing {
        std::mutex mutex;
        std::condition_variable changed;
        bool is_done = false;
    };
    auto printing = std::make_shared<Printing>();
    std::thread([printing, print = config_.report, report] {
        print(report);
        const std::lock_guard lock(printing->mutex);
        printing->is_done = true;
        printing->changed.notify_all();
    }).detach();
    {
        std::unique_lock lock(printing->mutex);
        printing->changed.wait_for(lock, report_time, [&] { return printing->is_done; });
    }
    for (int times = 0; times < 3; ++times) {
        send_beat(Beat::Kind::end);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    end_rank();
}

void Heartbeat::Thread::end_rank() {
    std::vector<const Process*> others;
    for (const Peer& one : peers_)
        if (one.process) others.push_back(&*one.process);
    start_undertaker(others, launcher_ ? &*launcher_ : nullptr, grace);
    // No destructor, no MPI: the thread that computes may stand in either.
    std::_Exit(config_.exit_code);
}

Heartbeat::Heartbeat(Communicator& world, HeartbeatConfig config) {
    if (world.size() > 1) thread_ = std::make_unique<Thread>(world, std::move(config));
}

Heartbeat::~Heartbeat() = default;

}  // namespace plinth::parallel
