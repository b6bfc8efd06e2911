// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/threads.h"

#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>

namespace plinth::parallel {

namespace {

struct Letter {
    std::string label;
    std::vector<std::byte> bytes;
};

/// What all groups of one run share. One lock serves them all: this is for tests.
struct PostOffice {
    /// group, from, to, channel, sequence
    using Address = std::tuple<int, int, int, int, int64_t>;
    struct Place {
        int64_t begun = 0;
        std::string label;
        bool waiting = false;
    };

    std::mutex mutex;
    std::condition_variable changed;
    uint64_t events = 0;
    std::map<Address, Letter> mail;
    std::map<std::tuple<int, int64_t, int>, int> groups;  ///< parent, sequence, color
    std::map<std::pair<int, int>, Place> places;          ///< group, rank
    std::optional<std::string> aborted;

    void notify() {
        ++events;
        changed.notify_all();
    }
    void check_alive() const {
        if (aborted) FAIL(ranks, "{}", *aborted);
    }
};

class ThreadCommunicator;

/// Sending copies at once; receiving takes the letter out when it is there.
class MailTransfer final : public Transfer {
  public:
    struct Expected {
        PostOffice::Address address;
        Bytes bytes;
    };
    MailTransfer(std::shared_ptr<PostOffice> office, std::string label,
                 std::vector<Expected> expected)
        : office_(std::move(office)), label_(std::move(label)), expected_(std::move(expected)) {}

    bool test() override {
        std::lock_guard lock(office_->mutex);
        office_->check_alive();
        std::erase_if(expected_, [&](const Expected& wanted) { return take(wanted); });
        return expected_.empty();
    }

  private:
    bool take(const Expected& wanted) {
        const auto found = office_->mail.find(wanted.address);
        if (found == office_->mail.end()) return false;
        const Letter& letter = found->second;
        const int from = std::get<1>(wanted.address), to = std::get<2>(wanted.address);
        REQUIRE(ranks, letter.label == label_ && letter.bytes.size() == wanted.bytes.size(),
                "rank {} is in '{}' and expects {} bytes, but rank {} is in '{}' and sent {}", to,
                label_, wanted.bytes.size(), from, letter.label, letter.bytes.size());
        std::memcpy(wanted.bytes.data(), letter.bytes.data(), letter.bytes.size());
        office_->mail.erase(found);
        return true;
    }

    std::shared_ptr<PostOffice> office_;
    std::string label_;
    std::vector<Expected> expected_;
};

class ThreadCommunicator final : public Communicator {
  public:
    ThreadCommunicator(std::shared_ptr<PostOffice> office, int group, int rank, int size,
                       CommunicatorOptions options)
        : Communicator(rank, size, fmt::format("thread {}", rank), std::move(options)),
          office_(std::move(office)),
          group_(group) {}

    std::unique_ptr<Communicator> split(int color, std::string name) override {
        std::vector<int64_t> colors(static_cast<size_t>(size()));
        colors[static_cast<size_t>(rank())] = color;
        all_reduce("split " + name, std::span(colors), Reduce::sum);
        int members = 0, before = 0;
        for (int peer = 0; peer < size(); ++peer) {
            if (colors[static_cast<size_t>(peer)] != color) continue;
            ++members;
            before += peer < rank() ? 1 : 0;
        }
        std::lock_guard lock(office_->mutex);
        const int next = static_cast<int>(office_->groups.size()) + 1;
        const auto [place, fresh] =
            office_->groups.try_emplace({group_, whereabouts().begun, color}, next);
        return std::make_unique<ThreadCommunicator>(office_, place->second, before, members,
                                                    options_of_part(color, std::move(name)));
    }

    void progress() override {
        std::lock_guard lock(office_->mutex);
        office_->check_alive();
    }

    void abort(const std::string& reason, ErrorKind) override {
        std::lock_guard lock(office_->mutex);
        if (!office_->aborted)
            office_->aborted = fmt::format("rank {} on {} aborted: {}", rank(), host(), reason);
        office_->notify();
    }

  protected:
    std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                       std::vector<Incoming> receives) override {
        const int channel = static_cast<int>(call.channel);
        std::vector<MailTransfer::Expected> expected;
        for (const Incoming& in : receives)
            expected.push_back({{group_, in.peer, rank(), channel, call.sequence}, in.bytes});
        std::lock_guard lock(office_->mutex);
        office_->check_alive();
        for (const Outgoing& out : sends)
            office_->mail[{group_, rank(), out.peer, channel, call.sequence}] = {
                call.label, {out.bytes.begin(), out.bytes.end()}};
        if (!sends.empty()) office_->notify();
        return std::make_unique<MailTransfer>(office_, call.label, std::move(expected));
    }

    void relax(std::chrono::duration<double>) override {
        std::unique_lock lock(office_->mutex);
        office_->changed.wait_for(lock, std::chrono::milliseconds(20),
                                  [&] { return office_->events != seen_; });
        seen_ = office_->events;
    }

    std::string missing_ranks(int64_t sequence) override {
        std::lock_guard lock(office_->mutex);
        std::vector<std::string> missing;
        for (int peer = 0; peer < size(); ++peer) {
            const PostOffice::Place& place = office_->places[{group_, peer}];
            if (peer == rank() || (sequence > 0 && place.begun >= sequence)) continue;
            missing.push_back(fmt::format("rank {} {} #{} '{}'", peer,
                                          place.waiting ? "waits in" : "has last begun",
                                          place.begun, place.label));
        }
        return fmt::format("{}", fmt::join(missing, ", "));
    }

    void moved() override {
        std::lock_guard lock(office_->mutex);
        const Whereabouts& here = whereabouts();
        office_->places[{group_, rank()}] = {here.begun, here.label, here.waiting};
    }

  private:
    std::shared_ptr<PostOffice> office_;
    int group_;
    uint64_t seen_ = 0;
};

}  // namespace

void run_as_threads(int ranks, const std::function<void(Communicator&)>& body,
                    const CommunicatorOptions& options) {
    CHECK(ranks > 0, "{} ranks", ranks);
    auto office = std::make_shared<PostOffice>();
    std::exception_ptr cause;  // guarded by the office's lock
    const auto run_rank = [&](int rank) {
        ThreadCommunicator communicator(office, 0, rank, ranks, options);
        const auto failed = [&](const std::string& reason, ErrorKind kind) {
            {
                std::lock_guard lock(office->mutex);
                if (!office->aborted && !cause) cause = std::current_exception();
            }
            communicator.abort(reason, kind);
        };
        try {
            body(communicator);
        } catch (const Error& error) {
            failed(error.what(), error.kind());
        } catch (const std::exception& error) {
            failed(error.what(), ErrorKind::internal);
        }
    };
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank)
        threads.emplace_back(run_rank, rank);
    for (std::thread& thread : threads)
        thread.join();
    if (cause) std::rethrow_exception(cause);
}

}  // namespace plinth::parallel
