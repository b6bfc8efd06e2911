// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/mpi.h"

#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <new>
#include <thread>

#include "core/io/print.h"
#include "parallel/comm/launcher.h"
#include "parallel/comm/self.h"

namespace plinth::parallel {

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Counts of MPI 3 are ints, and one request of a huge message is slower than several (see
/// benchmarks/RESULTS.md): larger ones travel in pieces.
constexpr size_t piece_bytes = size_t{4} << 20;
/// OpenMPI takes temporary memory of a reduction's size from the system: pieces are 3 times faster.
constexpr size_t reduction_bytes = size_t{1} << 20;

/// Tags of the second communicator; those of messages follow.
constexpr int where_tag = 1;
constexpr int here_tag = 2;
constexpr int first_message_tag = 16;

/// How long a rank that ran out of time waits for the others to say where they are.
constexpr Seconds grace{2.0};
/// How often a waiting rank looks for such questions.
constexpr Seconds answer_period{0.01};

void check(int code, const char* call, const std::string& label) {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    int rank = -1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    FAIL(ranks, "rank {} on {}: {} failed in '{}': {}", rank, host_name(), call, label,
         std::string(text.data(), static_cast<size_t>(length)));
}

#define MPI_TRY(label, call, ...) check(call(__VA_ARGS__), #call, label)

MPI_Datatype mpi_type(DType dtype) {
    switch (dtype) {
        case DType::i64:
            return MPI_INT64_T;
        case DType::f32:
            return MPI_FLOAT;
        case DType::f64:
            return MPI_DOUBLE;
        default:
            FAIL(internal, "no MPI type for {}", name_of(dtype));
    }
}

class Requests final : public Transfer {
  public:
    explicit Requests(std::string label) : label_(std::move(label)) {}
    MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }
    bool test() override {
        int done = 1;
        if (!requests_.empty())
            MPI_TRY(label_, MPI_Testall, static_cast<int>(requests_.size()), requests_.data(),
                    &done, MPI_STATUSES_IGNORE);
        return done != 0;
    }

  private:
    std::string label_;
    std::vector<MPI_Request> requests_;
};

/// Calls body(offset, count) for pieces of at most `piece` of `total`.
template <typename Body>
void for_pieces(size_t total, size_t piece, Body&& body) {
    for (size_t at = 0; at < total; at += piece)
        body(at, static_cast<int>(std::min(piece, total - at)));
}

/// What a rank says when asked where it is.
struct Here {
    int64_t begun = 0;
    int32_t waiting = 0;
    std::array<char, 116> label{};
};

class MpiCommunicator final : public Communicator {
  public:
    /// Collective over `group`, which it duplicates twice: for collectives, and for messages and
    /// questions, so that nothing of another group can be taken for its own.
    MpiCommunicator(MPI_Comm group, int rank, int size, CommunicatorOptions options)
        : Communicator(rank, size, host_name(), std::move(options)) {
        MPI_TRY(name(), MPI_Comm_dup, group, &collectives_);
        MPI_TRY(name(), MPI_Comm_dup, group, &side_);
        for (MPI_Comm comm : {collectives_, side_})
            MPI_TRY(name(), MPI_Comm_set_errhandler, comm, MPI_ERRORS_RETURN);
        int* limit = nullptr;
        int found = 0;
        MPI_TRY(name(), MPI_Comm_get_attr, side_, MPI_TAG_UB, static_cast<void*>(&limit), &found);
        tags_ = (found ? *limit : 32767) - first_message_tag;
    }

    ~MpiCommunicator() override {
        // Freeing is collective: not while an error unwinds this rank alone.
        if (!is_sound() || std::uncaught_exceptions() > 0) return;
        for (Answer& answer : answers_)
            MPI_Wait(&answer.request, MPI_STATUS_IGNORE);
        MPI_Comm_free(&collectives_);
        MPI_Comm_free(&side_);
    }

    std::unique_ptr<Communicator> split(int color, std::string name) override {
        MPI_Comm part = MPI_COMM_NULL;
        int part_rank = 0, part_size = 0;
        MPI_TRY("split " + name, MPI_Comm_split, collectives_, color, rank(), &part);
        MPI_TRY(name, MPI_Comm_rank, part, &part_rank);
        MPI_TRY(name, MPI_Comm_size, part, &part_size);
        auto communicator = std::make_unique<MpiCommunicator>(
            part, part_rank, part_size, options_of_part(color, std::move(name)));
        MPI_TRY("split", MPI_Comm_free, &part);
        return communicator;
    }

    void progress() override { answer_questions(); }

    [[noreturn]] void abort(const std::string& reason, ErrorKind kind) override {
        core::io::print_best_effort(
            stderr, fmt::format("plinth: rank {} on {}: {}\n", rank(), host(), reason));
        MPI_Abort(MPI_COMM_WORLD, exit_code(kind));
        std::abort();  // MPI_Abort does not return
    }

  protected:
    std::unique_ptr<Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                       std::vector<Incoming> receives) override {
        const bool is_collective = call.channel == Call::Channel::collective;
        const MPI_Comm comm = is_collective ? collectives_ : side_;
        const int tag = first_message_tag + static_cast<int>(call.sequence % tags_);
        auto requests = std::make_unique<Requests>(call.label);
        for (const Incoming& in : receives)
            for_pieces(in.bytes.size(), piece_bytes, [&](size_t at, int count) {
                MPI_TRY(call.label, MPI_Irecv, in.bytes.data() + at, count, MPI_BYTE, in.peer, tag,
                        comm, requests->add());
            });
        for (const Outgoing& out : sends)
            for_pieces(out.bytes.size(), piece_bytes, [&](size_t at, int count) {
                MPI_TRY(call.label, MPI_Isend, out.bytes.data() + at, count, MPI_BYTE, out.peer,
                        tag, comm, requests->add());
            });
        return requests;
    }

    std::unique_ptr<Transfer> exact_reduction(const Call& call, void* values, size_t count,
                                              DType dtype, Reduce reduce) override {
        auto requests = std::make_unique<Requests>(call.label);
        auto* bytes = static_cast<std::byte*>(values);
        const size_t width = size_of(dtype);
        for_pieces(count, reduction_bytes / width, [&](size_t at, int elements) {
            MPI_TRY(call.label, MPI_Iallreduce, MPI_IN_PLACE, bytes + at * width, elements,
                    mpi_type(dtype), reduce == Reduce::sum ? MPI_SUM : MPI_MAX, collectives_,
                    requests->add());
        });
        return requests;
    }

    std::unique_ptr<Transfer> broadcast_from(const Call& call, Bytes bytes, int root) override {
        auto requests = std::make_unique<Requests>(call.label);
        for_pieces(bytes.size(), piece_bytes, [&](size_t at, int count) {
            MPI_TRY(call.label, MPI_Ibcast, bytes.data() + at, count, MPI_BYTE, root, collectives_,
                    requests->add());
        });
        return requests;
    }

    void relax(Seconds waited) override {
        if (waited > next_answer_) {
            answer_questions();
            next_answer_ = waited + answer_period;
        } else if (waited < answer_period) {
            next_answer_ = answer_period;
        }
        // The core may be needed by the very rank this one waits for.
        if (waited < std::chrono::milliseconds(5))
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    }

    std::string missing_ranks(int64_t sequence) override {
        std::vector<Here> heard(static_cast<size_t>(size()));
        std::vector<bool> answered(static_cast<size_t>(size()));
        ask_everyone(heard, answered);
        std::vector<std::string> elsewhere, silent;
        for (int peer = 0; peer < size(); ++peer) {
            const auto p = static_cast<size_t>(peer);
            if (peer == rank()) continue;
            if (!answered[p]) {
                silent.push_back(std::to_string(peer));
            } else if (sequence == 0 || heard[p].begun < sequence) {
                elsewhere.push_back(fmt::format("rank {} {} #{} '{}'", peer,
                                                heard[p].waiting ? "waits in" : "has last begun",
                                                heard[p].begun, heard[p].label.data()));
            }
        }
        if (!silent.empty())
            elsewhere.push_back(fmt::format(
                "rank {} gave no answer in {} s: outside any collective (computing, reading, "
                "stopped) or out of reach",
                fmt::join(silent, ", rank "), grace.count()));
        return fmt::format("{}", fmt::join(elsewhere, "; "));
    }

  private:
    struct Answer {
        Here here;
        MPI_Request request = MPI_REQUEST_NULL;
    };

    /// Tells every peer that asks where this rank is.
    void answer_questions() {
        answers_.remove_if([&](Answer& answer) {
            int done = 0;
            MPI_TRY(name(), MPI_Test, &answer.request, &done, MPI_STATUS_IGNORE);
            return done != 0;
        });
        for (;;) {
            int asked = 0;
            MPI_Status status;
            MPI_TRY(name(), MPI_Iprobe, MPI_ANY_SOURCE, where_tag, side_, &asked, &status);
            if (!asked) return;
            MPI_TRY(name(), MPI_Recv, nullptr, 0, MPI_BYTE, status.MPI_SOURCE, where_tag, side_,
                    MPI_STATUS_IGNORE);
            const Whereabouts& at = whereabouts();
            Answer& answer = answers_.emplace_back();
            answer.here.begun = at.begun;
            answer.here.waiting = at.waiting ? 1 : 0;
            const size_t length = std::min(at.label.size(), answer.here.label.size() - 1);
            std::memcpy(answer.here.label.data(), at.label.data(), length);
            MPI_TRY(name(), MPI_Isend, &answer.here, sizeof(Here), MPI_BYTE, status.MPI_SOURCE,
                    here_tag, side_, &answer.request);
        }
    }

    void ask_everyone(std::vector<Here>& heard, std::vector<bool>& answered) {
        // The process ends after this, so that nobody waits for these requests.
        std::vector<MPI_Request> questions(static_cast<size_t>(size()), MPI_REQUEST_NULL);
        for (int peer = 0; peer < size(); ++peer)
            if (peer != rank())
                MPI_TRY(name(), MPI_Isend, nullptr, 0, MPI_BYTE, peer, where_tag, side_,
                        &questions[static_cast<size_t>(peer)]);
        const Clock::time_point began = Clock::now();
        for (int left = size() - 1; left > 0 && Clock::now() - began < grace;) {
            answer_questions();
            int here = 0;
            MPI_Status status;
            MPI_TRY(name(), MPI_Iprobe, MPI_ANY_SOURCE, here_tag, side_, &here, &status);
            if (!here) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                continue;
            }
            const auto peer = static_cast<size_t>(status.MPI_SOURCE);
            MPI_TRY(name(), MPI_Recv, &heard[peer], sizeof(Here), MPI_BYTE, status.MPI_SOURCE,
                    here_tag, side_, MPI_STATUS_IGNORE);
            answered[peer] = true;
            --left;
        }
    }

    MPI_Comm collectives_ = MPI_COMM_NULL;
    MPI_Comm side_ = MPI_COMM_NULL;
    int64_t tags_ = 0;
    std::list<Answer> answers_;
    Seconds next_answer_{0.0};
};

}  // namespace

std::string mpi_library_version() {
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
    int length = 0;
    MPI_Get_library_version(text.data(), &length);
    const std::string version(text.data(), static_cast<size_t>(length));
    return version.substr(0, version.find_first_of(",\n"));  // without the packager's details
}

MpiWorld::MpiWorld(CommunicatorOptions options) {
    const Environment environment = [](const char* name) { return std::getenv(name); };
    if (!is_launched(environment)) {
        check_launch(1, environment);
        communicator_ = std::make_unique<SelfCommunicator>(std::move(options));
        return;
    }
    int provided = 0, rank = 0, size = 1;
    MPI_TRY("start", MPI_Init_thread, nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    initialised_ = true;
    REQUIRE(
        ranks, provided >= MPI_THREAD_FUNNELED,
        "this MPI does not allow other threads in the process (MPI_THREAD_FUNNELED): it gave {}",
        provided);
    MPI_TRY("start", MPI_Comm_set_errhandler, MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_TRY("start", MPI_Comm_rank, MPI_COMM_WORLD, &rank);
    MPI_TRY("start", MPI_Comm_size, MPI_COMM_WORLD, &size);
    check_launch(size, environment);
    MPI_Comm local = MPI_COMM_NULL;
    MPI_TRY("start", MPI_Comm_split_type, MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL,
            &local);
    MPI_TRY("start", MPI_Comm_rank, local, &local_rank_);
    MPI_TRY("start", MPI_Comm_size, local, &local_size_);
    MPI_TRY("start", MPI_Comm_free, &local);
    communicator_ =
        std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, rank, size, std::move(options));
}

MpiWorld::~MpiWorld() {
    if (!initialised_) return;
    if (std::uncaught_exceptions() > 0)
        communicator_->abort("ended by an error", ErrorKind::internal);
    communicator_ = nullptr;
    MPI_Finalize();
}

int MpiWorld::run(const std::function<int(Communicator&)>& program) {
    try {
        return program(*communicator_);
    } catch (const Error& error) {
        return fail(error.what(), error.kind());
    } catch (const std::bad_alloc&) {
        return fail(
            "out of memory: the system has none left for what this rank keeps beside its "
            "tensors",
            ErrorKind::io);
    } catch (const std::exception& error) {
        return fail(fmt::format("unexpected: {}", error.what()), ErrorKind::internal);
    }
}

int MpiWorld::fail(const std::string& message, ErrorKind kind) {
    if (communicator_->size() == 1) {
        core::io::print_best_effort(stderr, fmt::format("plinth: {}\n", message));
        return exit_code(kind);
    }
    // Every rank finds the same mistake in a configuration or a file: let the first one say it.
    if (communicator_->rank() > 0 && kind != ErrorKind::ranks)
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
    communicator_->abort(message, kind);
    return exit_code(kind);
}

}  // namespace plinth::parallel
