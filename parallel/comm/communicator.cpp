// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/communicator.h"

#include <algorithm>
#include <cstring>

namespace plinth::parallel {

using Clock = std::chrono::steady_clock;

namespace {

/// Steps that follow one another; each returns the transfer to finish before the next one.
class Chain final : public Transfer {
  public:
    using Step = std::function<std::unique_ptr<Transfer>()>;
    explicit Chain(std::vector<Step> steps) : steps_(std::move(steps)) {}
    bool test() override {
        for (;;) {
            if (current_ && !current_->test()) return false;
            current_ = nullptr;
            if (next_ == steps_.size()) return true;
            current_ = steps_[next_++]();
        }
    }

  private:
    std::vector<Step> steps_;
    size_t next_ = 0;
    std::unique_ptr<Transfer> current_;
};

template <typename T>
void fold(T* sum, const T* values, size_t count, Reduce reduce) {
    for (size_t i = 0; i < count; ++i)
        sum[i] = reduce == Reduce::sum ? static_cast<T>(sum[i] + values[i])
                                       : std::max(sum[i], values[i]);
}

void fold(void* sum, const std::byte* values, size_t count, DType dtype, Reduce reduce) {
    switch (dtype) {
        case DType::i64:
            return fold(static_cast<int64_t*>(sum), reinterpret_cast<const int64_t*>(values), count,
                        reduce);
        case DType::f32:
            return fold(static_cast<float*>(sum), reinterpret_cast<const float*>(values), count,
                        reduce);
        case DType::f64:
            return fold(static_cast<double*>(sum), reinterpret_cast<const double*>(values), count,
                        reduce);
        default:
            FAIL(internal, "no reduction of {}", name_of(dtype));
    }
}

/// Memory that a chain's steps share.
using Staging = std::shared_ptr<std::vector<std::byte>>;

Staging staging(size_t bytes) {
    return std::make_shared<std::vector<std::byte>>(bytes);
}

/// Folds `size` pieces that lie one after the other, in order, into `result`.
void fold_pieces(void* result, const std::vector<std::byte>& pieces, size_t count, DType dtype,
                 Reduce reduce) {
    const size_t piece = count * size_of(dtype);
    if (piece == 0) return;
    std::memcpy(result, pieces.data(), piece);
    for (size_t at = piece; at < pieces.size(); at += piece)
        fold(result, pieces.data() + at, count, dtype, reduce);
}

}  // namespace

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
    if (!test()) communicator_->wait_for(*this);
}

void Pending::drop() noexcept {
    if (transfer_) communicator_->poison(label_, std::move(transfer_));
}

// --- Communicator: starting calls ---------------------------------------------------------------

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

CommunicatorOptions Communicator::options_of_part(int color, std::string name) {
    // A number that all members come to without a word: that of this group, which split, the part.
    uint64_t group = options_.group;
    for (const uint64_t word : {++parts_, static_cast<uint64_t>(color)})
        group = (group ^ (word + 1)) * 0x9e3779b97f4a7c15u;
    return {.name = std::move(name),
            .time_limit = options_.time_limit,
            .group = group ^ (group >> 29),
            .activity = options_.activity};
}

Communicator::Call Communicator::begin(std::string label, int calls) {
    REQUIRE(ranks, is_sound(), "rank {} on {}: cannot start '{}' in group '{}' after a failure: {}",
            rank_, host_, label, name(), failure_);
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

Pending Communicator::start_all_to_all(std::string label, std::span<const ConstBytes> sends,
                                       std::span<const Bytes> receives) {
    const auto peers = static_cast<size_t>(size_);
    CHECK(sends.size() == peers && receives.size() == peers, "{}: {} sends, {} receives, {} ranks",
          label, sends.size(), receives.size(), size_);
    Call call = begin(std::move(label));
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    // Each rank starts with its right neighbour, so that no rank is everybody's first target.
    for (int step = 1; step < size_; ++step) {
        const int to = (rank_ + step) % size_, from = (rank_ - step + size_) % size_;
        if (const ConstBytes bytes = sends[static_cast<size_t>(to)]; !bytes.empty())
            out.push_back({to, bytes});
        if (const Bytes bytes = receives[static_cast<size_t>(from)]; !bytes.empty())
            in.push_back({from, bytes});
    }
    const ConstBytes own = sends[static_cast<size_t>(rank_)];
    const Bytes kept = receives[static_cast<size_t>(rank_)];
    if (!kept.empty() && kept.data() != own.data()) {
        CHECK(kept.size() == own.size(), "{}: {} bytes to itself, {} expected", call.label,
              own.size(), kept.size());
        std::memcpy(kept.data(), own.data(), own.size());
    }
    auto transfer = exchange(call, std::move(out), std::move(in));
    return pending(std::move(call), std::move(transfer));
}

std::unique_ptr<Transfer> Communicator::gather(const Call& call, ConstBytes mine,
                                               std::span<const Bytes> pieces) {
    CHECK(pieces.size() == static_cast<size_t>(size_), "{}: {} pieces, {} ranks", call.label,
          pieces.size(), size_);
    const Bytes own = pieces[static_cast<size_t>(rank_)];
    CHECK(own.size() == mine.size(), "{}: {} bytes for a piece of {}", call.label, mine.size(),
          own.size());
    if (!mine.empty() && own.data() != mine.data())
        std::memcpy(own.data(), mine.data(), mine.size());
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (int step = 1; step < size_; ++step) {
        const int to = (rank_ + step) % size_, from = (rank_ - step + size_) % size_;
        if (!mine.empty()) out.push_back({to, mine});
        if (const Bytes piece = pieces[static_cast<size_t>(from)]; !piece.empty())
            in.push_back({from, piece});
    }
    return exchange(call, std::move(out), std::move(in));
}

Pending Communicator::start_all_gather(std::string label, ConstBytes mine,
                                       std::span<const Bytes> pieces) {
    Call call = begin(std::move(label));
    auto transfer = gather(call, mine, pieces);
    return pending(std::move(call), std::move(transfer));
}

std::vector<std::string> Communicator::all_gather(const std::string& label,
                                                  const std::string& mine) {
    std::vector<int64_t> lengths(static_cast<size_t>(size_));
    lengths[static_cast<size_t>(rank_)] = static_cast<int64_t>(mine.size());
    all_reduce(label + " (lengths)", std::span(lengths), Reduce::sum);
    std::vector<std::string> all;
    std::vector<Bytes> pieces;
    for (const int64_t length : lengths)
        all.emplace_back(static_cast<size_t>(length), '\0');
    for (std::string& piece : all)
        pieces.push_back(std::as_writable_bytes(std::span(piece)));
    all_gather(label, std::as_bytes(std::span(mine)), pieces);
    return all;
}

Pending Communicator::start_broadcast(std::string label, Bytes bytes, int root) {
    check_peer(label, root);
    Call call = begin(std::move(label));
    auto transfer = broadcast_from(call, bytes, root);
    return pending(std::move(call), std::move(transfer));
}

std::unique_ptr<Transfer> Communicator::broadcast_from(const Call& call, Bytes bytes, int root) {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    if (bytes.empty()) return exchange(call, {}, {});
    if (rank_ != root) in.push_back({root, bytes});
    for (int peer = 0; rank_ == root && peer < size_; ++peer)
        if (peer != root) out.push_back({peer, bytes});
    return exchange(call, std::move(out), std::move(in));
}

std::unique_ptr<Transfer> Communicator::exact_reduction(const Call& call, void* values,
                                                        size_t count, DType dtype, Reduce reduce) {
    const size_t bytes = count * size_of(dtype);
    Staging all = staging(bytes * static_cast<size_t>(size_));
    std::vector<Bytes> pieces;
    for (int peer = 0; peer < size_; ++peer)
        pieces.emplace_back(all->data() + bytes * static_cast<size_t>(peer), bytes);
    auto gathered = std::make_shared<std::unique_ptr<Transfer>>(
        gather(call, {static_cast<const std::byte*>(values), bytes}, pieces));
    return std::make_unique<Chain>(
        std::vector<Chain::Step>{[gathered] { return std::move(*gathered); },
                                 [=]() -> std::unique_ptr<Transfer> {
                                     fold_pieces(values, *all, count, dtype, reduce);
                                     return nullptr;
                                 }});
}

std::unique_ptr<Transfer> Communicator::scatter(const Call& call, const void* values,
                                                std::span<const size_t> counts, void* mine,
                                                DType dtype, Reduce reduce) {
    const size_t count = counts[static_cast<size_t>(rank_)];
    const size_t bytes = count * size_of(dtype);
    Staging pieces = staging(bytes * static_cast<size_t>(size_));
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    const auto* from = static_cast<const std::byte*>(values);
    for (int peer = 0; peer < size_; ++peer) {
        const ConstBytes part(from, counts[static_cast<size_t>(peer)] * size_of(dtype));
        std::byte* place = pieces->data() + bytes * static_cast<size_t>(peer);
        from += part.size();
        if (peer == rank_) {
            if (bytes != 0) std::memcpy(place, part.data(), bytes);
            continue;
        }
        if (!part.empty()) out.push_back({peer, part});
        if (bytes != 0) in.push_back({peer, {place, bytes}});
    }
    auto exchanged =
        std::make_shared<std::unique_ptr<Transfer>>(exchange(call, std::move(out), std::move(in)));
    return std::make_unique<Chain>(
        std::vector<Chain::Step>{[exchanged] { return std::move(*exchanged); },
                                 [=]() -> std::unique_ptr<Transfer> {
                                     fold_pieces(mine, *pieces, count, dtype, reduce);
                                     return nullptr;
                                 }});
}

Pending Communicator::start_scatter(std::string label, const void* values,
                                    std::span<const size_t> counts, void* mine, DType dtype,
                                    Reduce reduce) {
    CHECK(counts.size() == static_cast<size_t>(size_), "{}: {} counts, {} ranks", label,
          counts.size(), size_);
    Call call = begin(std::move(label));
    auto transfer = scatter(call, values, counts, mine, dtype, reduce);
    return pending(std::move(call), std::move(transfer));
}

Pending Communicator::start_reduction(std::string label, void* values, size_t count, DType dtype,
                                      Reduce reduce) {
    CHECK(dtype == DType::i64 || dtype == DType::f32 || dtype == DType::f64,
          "{}: no reduction of {}", label, name_of(dtype));
    if (dtype == DType::i64 || reduce == Reduce::max) {
        Call call = begin(std::move(label));
        auto transfer = exact_reduction(call, values, count, dtype, reduce);
        return pending(std::move(call), std::move(transfer));
    }
    // Every rank folds one part in rank order, then all gather the parts. The second half begins at
    // another moment on each rank, so that its number is taken now.
    Call call = begin(std::move(label), 2);
    const auto ranks = static_cast<size_t>(size_);
    auto* bytes = static_cast<std::byte*>(values);
    std::vector<size_t> counts;
    std::vector<Bytes> parts;
    for (size_t p = 0, at = 0; p < ranks; ++p) {
        counts.push_back(count * (p + 1) / ranks - count * p / ranks);
        parts.emplace_back(bytes + at * size_of(dtype), counts[p] * size_of(dtype));
        at += counts[p];
    }
    const Bytes mine = parts[static_cast<size_t>(rank_)];
    Call second = call;
    ++second.sequence;
    // `mine` is read by nobody else, so that the fold may write there.
    auto first = std::make_shared<std::unique_ptr<Transfer>>(
        scatter(call, values, counts, mine.data(), dtype, reduce));
    auto chain = std::make_unique<Chain>(std::vector<Chain::Step>{
        [first] { return std::move(*first); },
        [this, second, mine, parts] { return gather(second, mine, parts); }});
    return pending(std::move(call), std::move(chain));
}

Pending Communicator::start_send(std::string label, ConstBytes bytes, int to) {
    Call call = message(std::move(label), true, to);
    std::vector<Outgoing> out;
    if (!bytes.empty()) out.push_back({to, bytes});
    auto transfer = exchange(call, std::move(out), {});
    return pending(std::move(call), std::move(transfer));
}

Pending Communicator::start_receive(std::string label, Bytes bytes, int from) {
    Call call = message(std::move(label), false, from);
    std::vector<Incoming> in;
    if (!bytes.empty()) in.push_back({from, bytes});
    auto transfer = exchange(call, {}, std::move(in));
    return pending(std::move(call), std::move(transfer));
}

void Communicator::send_receive(const std::string& label, ConstBytes out, int to, Bytes in,
                                int from) {
    Pending received = start_receive(label, in, from);
    Pending sent = start_send(label, out, to);
    received.wait();
    sent.wait();
}

void Communicator::barrier(std::string label) {
    int64_t arrived = 1;
    all_reduce(std::move(label), std::span(&arrived, 1), Reduce::sum);
}

// --- Communicator: waiting ----------------------------------------------------------------------

void Communicator::wait_for(Pending& pending) {
    const Clock::time_point began = Clock::now();
    whereabouts_.waiting = true;
    options_.activity->wait(options_.group, pending.sequence_, pending.label_, pending.message_);
    moved();
    while (!pending.test()) {
        const std::chrono::duration<double> waited = Clock::now() - began;
        if (waited > options_.time_limit) report_hang(pending);
        relax(waited);
    }
    whereabouts_.waiting = false;
    options_.activity->go_on();
    moved();
    seconds_waited_ += std::chrono::duration<double>(Clock::now() - began).count();
}

void Communicator::report_hang(const Pending& pending) {
    const std::string call = pending.sequence_ > 0 ? fmt::format("collective #{} '{}'",
                                                                 pending.sequence_, pending.label_)
                                                   : fmt::format("message '{}'", pending.label_);
    failure_ = fmt::format("{} ran out of time", call);
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
