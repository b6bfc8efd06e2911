// SPDX-License-Identifier: Apache-2.0
// The calls of every communicator, made of exchanges between pairs of ranks.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/runtime/trace.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

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

/// Integers wrap around, as MPI's do: what another rank sent must not be able to make a sum
/// undefined.
template <typename T>
T plus(T a, T b) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(std::make_unsigned_t<T>(a) + std::make_unsigned_t<T>(b));
    else
        return a + b;
}

template <typename T>
void fold(T* sum, const T* values, size_t count, Reduce reduce) {
    for (size_t i = 0; i < count; ++i)
        sum[i] = reduce == Reduce::sum ? plus(sum[i], values[i]) : std::max(sum[i], values[i]);
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

bool Communicator::goes_by_link(const Call& call, std::span<const Outgoing> sends,
                                std::span<const Incoming> receives) const {
    if (!options_.links) return false;
    size_t on_device = 0;
    for (const Outgoing& out : sends)
        on_device += options_.device->is_device(out.bytes.data()) ? 1 : 0;
    for (const Incoming& in : receives)
        on_device += options_.device->is_device(in.bytes.data()) ? 1 : 0;
    CHECK(on_device == 0 || on_device == sends.size() + receives.size(),
          "{}: some buffers lie in device memory, others in the host's", call.label);
    return on_device > 0;
}

std::unique_ptr<Transfer> Communicator::move(const Call& call, StagedCall staged,
                                             std::vector<Outgoing> sends,
                                             std::vector<Incoming> receives) {
    if (goes_by_link(call, sends, receives)) {
        staged.read();
        return link().exchange(call, std::move(sends), std::move(receives));
    }
    for (Outgoing& out : sends)
        out.bytes = staged.source(out.bytes);
    for (Incoming& in : receives)
        in.bytes = staged.target(in.bytes);
    staged.read();
    return staged.staged(exchange(call, std::move(sends), std::move(receives)));
}

Pending Communicator::start_all_to_all(std::string label, std::span<const ConstBytes> sends,
                                       std::span<const Bytes> receives) {
    const TraceRange range(label.c_str());
    const auto peers = static_cast<size_t>(size_);
    CHECK(sends.size() == peers && receives.size() == peers, "{}: {} sends, {} receives, {} ranks",
          label, sends.size(), receives.size(), size_);
    Call call = begin(std::move(label));
    StagedCall staged(options_.device);
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
        staged.copy(kept, own);
    }
    auto transfer = move(call, std::move(staged), std::move(out), std::move(in));
    return pending(std::move(call), std::move(transfer));
}

std::unique_ptr<Transfer> Communicator::gather(const Call& call, ConstBytes mine,
                                               std::span<const Bytes> pieces, StagedCall staged) {
    CHECK(pieces.size() == static_cast<size_t>(size_), "{}: {} pieces, {} ranks", call.label,
          pieces.size(), size_);
    const Bytes own = pieces[static_cast<size_t>(rank_)];
    CHECK(own.size() == mine.size(), "{}: {} bytes for a piece of {}", call.label, mine.size(),
          own.size());
    if (!mine.empty() && own.data() != mine.data()) staged.copy(own, mine);
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (int step = 1; step < size_; ++step) {
        const int to = (rank_ + step) % size_, from = (rank_ - step + size_) % size_;
        if (!mine.empty()) out.push_back({to, mine});
        if (const Bytes piece = pieces[static_cast<size_t>(from)]; !piece.empty())
            in.push_back({from, piece});
    }
    return move(call, std::move(staged), std::move(out), std::move(in));
}

Pending Communicator::start_all_gather(std::string label, ConstBytes mine,
                                       std::span<const Bytes> pieces) {
    const TraceRange range(label.c_str());
    Call call = begin(std::move(label));
    auto transfer = gather(call, mine, pieces, StagedCall(options_.device));
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
    const TraceRange range(label.c_str());
    check_peer(label, root);
    Call call = begin(std::move(label));
    StagedCall staged(options_.device);
    if (staged.is_device(bytes.data())) {
        if (size_ == 1 || bytes.empty()) return {};
        if (options_.links) {
            auto linked = link().broadcast(call, bytes, root);
            return pending(std::move(call), std::move(linked));
        }
    }
    Bytes host;
    if (rank_ == root) {
        const ConstBytes from = staged.source(bytes);
        host = {const_cast<std::byte*>(from.data()), from.size()};  // only read, at the root
    } else {
        host = staged.target(bytes);
    }
    staged.read();
    auto transfer = staged.staged(broadcast_from(call, host, root));
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
        gather(call, {static_cast<const std::byte*>(values), bytes}, pieces, StagedCall({})));
    return std::make_unique<Chain>(
        std::vector<Chain::Step>{[gathered] { return std::move(*gathered); },
                                 [=]() -> std::unique_ptr<Transfer> {
                                     fold_pieces(values, *all, count, dtype, reduce);
                                     return nullptr;
                                 }});
}

/// Folds, in rank order, the part of every rank's `values` that belongs to this rank into `mine`;
/// counts[p] elements belong to rank p, in order.
std::unique_ptr<Transfer> Communicator::scattered_sum(const Call& call, const void* values,
                                                      std::span<const size_t> counts, void* mine,
                                                      DType dtype) {
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
                                     fold_pieces(mine, *pieces, count, dtype, Reduce::sum);
                                     return nullptr;
                                 }});
}

Pending Communicator::start_reduction(std::string label, void* values, size_t count, DType dtype,
                                      Reduce reduce) {
    const TraceRange range(label.c_str());
    CHECK(dtype == DType::i64 || dtype == DType::f32 || dtype == DType::f64,
          "{}: no reduction of {}", label, name_of(dtype));
    const bool is_exact = dtype == DType::i64 || reduce == Reduce::max;
    Call call = begin(std::move(label), is_exact ? 1 : 2);
    StagedCall staged(options_.device);
    if (staged.is_device(values)) {
        if (size_ == 1 || count == 0) return {};
        if (options_.links && (is_exact || dtype == DType::f32)) {
            auto linked = is_exact ? link().exact_reduction(call, values, count, dtype, reduce)
                                   : link().ordered_sum(call, static_cast<float*>(values), count);
            return pending(std::move(call), std::move(linked));
        }
    }
    const Bytes host = staged.changed({static_cast<std::byte*>(values), count * size_of(dtype)});
    staged.read();
    auto transfer = is_exact ? exact_reduction(call, host.data(), count, dtype, reduce)
                             : ordered_sum(call, host, dtype);
    transfer = staged.staged(std::move(transfer));
    return pending(std::move(call), std::move(transfer));
}

std::unique_ptr<Transfer> Communicator::ordered_sum(const Call& call, Bytes values, DType dtype) {
    // Every rank folds one part in rank order, then all gather the parts. The second half begins at
    // another moment on each rank: its number was taken with the first.
    const size_t ranks = static_cast<size_t>(size_), count = values.size() / size_of(dtype);
    std::vector<size_t> counts;
    std::vector<Bytes> parts;
    for (size_t p = 0, at = 0; p < ranks; ++p) {
        counts.push_back(count * (p + 1) / ranks - count * p / ranks);
        parts.push_back(values.subspan(at * size_of(dtype), counts[p] * size_of(dtype)));
        at += counts[p];
    }
    const Bytes mine = parts[static_cast<size_t>(rank_)];
    Call second = call;
    ++second.sequence;
    // `mine` is read by nobody else, so that the fold may write there.
    auto first = std::make_shared<std::unique_ptr<Transfer>>(
        scattered_sum(call, values.data(), counts, mine.data(), dtype));
    return std::make_unique<Chain>(std::vector<Chain::Step>{
        [first] { return std::move(*first); },
        [this, second, mine, parts] { return gather(second, mine, parts, StagedCall({})); }});
}

Pending Communicator::start_send(std::string label, ConstBytes bytes, int to) {
    const TraceRange range(label.c_str());
    Call call = message(std::move(label), true, to);
    std::vector<Outgoing> out;
    if (!bytes.empty()) out.push_back({to, bytes});
    auto transfer = move(call, StagedCall(options_.device), std::move(out), {});
    return pending(std::move(call), std::move(transfer));
}

Pending Communicator::start_receive(std::string label, Bytes bytes, int from) {
    const TraceRange range(label.c_str());
    Call call = message(std::move(label), false, from);
    std::vector<Incoming> in;
    if (!bytes.empty()) in.push_back({from, bytes});
    auto transfer = move(call, StagedCall(options_.device), {}, std::move(in));
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

}  // namespace plinth::parallel
