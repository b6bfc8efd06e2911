// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/writer.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "checkpoints/attempt.h"
#include "checkpoints/commit.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::join;
using core::io::OpenMode;

namespace {

constexpr uint64_t flush_bytes = 128ull << 20;
/// How long a rank that waits for its own disk leaves the others alone: far below the time limit of
/// a collective, however slow the disk is.
constexpr std::chrono::milliseconds tick{200};

double thread_cpu_seconds() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_request(const SaveRequest& request) {
    CHECK(!request.root.empty() && request.step >= 0, "save of step {} into '{}'", request.step,
          request.root);
    check_run_id(request.run_id, "save");
    for (const auto& [name, bytes] : request.manifest.files)
        check_side_name(name, "save");
    for (const core::StateTensor& tensor : request.tensors)
        CHECK(tensor.data || tensor.shard.elements() == 0, "tensor {} has no data", tensor.name);
}

}  // namespace

void WriterOptions::validate() const {
    REQUIRE(config, file_bytes >= (1ull << 21), "checkpoint file size: at least 2 MiB, got {}",
            file_bytes);
    REQUIRE(config, chunk_bytes >= block_bytes, "checkpoint write size: at least 1 MiB, got {}",
            chunk_bytes);
    REQUIRE(config, threads >= 1 && threads <= 64, "checkpoint threads: 1 to 64, got {}", threads);
    retention.validate();
}

Writer::Writer(core::io::FileSystem& files, core::Ranks& ranks, WriterOptions options)
    : files_(files),
      ranks_(ranks),
      options_(std::move(options)),
      retention_(files, options_.retention),
      mark_(new_writer_mark()) {
    options_.validate();
    if (!options_.warn) options_.warn = [](const std::string&) {};
}

Writer::~Writer() {
    cancel_ = true;
    join_worker();
}

SaveOutcome Writer::save(const SaveRequest& request) {
    start(request, false);
    return finish();
}

void Writer::begin(const SaveRequest& request) {
    start(request, true);
}

void Writer::start(const SaveRequest& request, bool staged) {
    CHECK(phase_ == Phase::idle, "step {} is saved while step {} still is", request.step,
          manifest_.step);
    started_ = std::chrono::steady_clock::now();
    Failure mistake;
    try {
        check_request(request);
    } catch (...) {
        mistake = current_failure();
    }
    rethrow(agree(ranks_, mistake));
    prepare_plan(request);
    failure_ = {};
    cpu_seconds_ = 0;
    copy_seconds_ = 0;
    cancel_ = false;
    phase_ = Phase::writing;
    open_attempt(request);
    if (folder_.empty()) return;
    part_ = make_part(plan_, ranks_.rank(), request.tensors, options_.chunk_bytes);
    copied_ = false;
    launch(staged ? &Writer::write_staged : &Writer::write_direct);
}

void Writer::prepare_plan(const SaveRequest& request) {
    const std::string table = encode_table(request.tensors);
    if (ranks_.all_agree(!table_.empty() && table == table_)) return;
    table_.clear();
    plan_ = make_plan(exchange_tables(ranks_, request.tensors, options_.node), options_.file_bytes);
    table_ = table;
}

/// Rank 0 makes the attempt's folder. Without one, `folder_` is empty on all ranks and the save has
/// failed.
void Writer::open_attempt(const SaveRequest& request) {
    manifest_ = ranks_.rank() == 0 ? request.manifest : Manifest{};
    root_ = request.root;
    std::string number;
    if (ranks_.rank() == 0) {
        try {
            make_durable_folder(files_, root_);
            const auto step = static_cast<uint64_t>(request.step);
            // Counted before leftovers go: the number of a removed attempt is not given again.
            uint64_t used = newest_attempt(files_, root_, step);
            if (last_attempt_.step == step) used = std::max(used, last_attempt_.attempt);
            if (cleaned_root_ != root_) remove_unfinished(files_, root_, options_.warn);
            cleaned_root_ = root_;
            last_attempt_ = {step, make_attempt(files_, root_, step, used, mark_)};
            number = std::to_string(last_attempt_.attempt);
        } catch (...) {
            failure_ = current_failure();
        }
    }
    number = ranks_.broadcast(number, 0);
    manifest_.run_id = request.run_id;
    manifest_.step = request.step;
    manifest_.attempt = number.empty() ? 0 : std::stoll(number);
    folder_ = number.empty() ? "" : join(root_, folder_name(origin().step, origin().attempt));
}

Origin Writer::origin() const {
    return {manifest_.run_id, static_cast<uint64_t>(manifest_.step),
            static_cast<uint64_t>(manifest_.attempt)};
}

void Writer::launch(void (Writer::*work)()) {
    join_worker();
    busy_ = true;
    worker_ = std::thread([this, work] {
        Failure failure;
        try {
            (this->*work)();
        } catch (...) {
            failure = current_failure();
        }
        open_files_.clear();
        cpu_seconds_ += thread_cpu_seconds();
        const std::lock_guard lock(mutex_);
        failure_ = std::move(failure);
        busy_ = false;
        copied_ = true;
        changed_.notify_all();
    });
}

void Writer::join_worker() {
    if (worker_.joinable()) worker_.join();
}

void Writer::open_files() {
    for (const Chunk& chunk : part_.chunks) {
        auto& file = open_files_[chunk.file];
        if (!file) file = files_.open_write(join(folder_, data_name(chunk.file)), OpenMode::update);
    }
}

void Writer::write_staged() {
    if (staging_bytes_ < part_.bytes) {
        staging_.reset();  // before the next: not two at a time
        staging_ = std::make_unique_for_overwrite<std::byte[]>(part_.bytes);
        staging_bytes_ = part_.bytes;
    }
    std::span<std::byte> rest(staging_.get(), part_.bytes);
    for (const Chunk& chunk : part_.chunks) {
        fill(rest.first(chunk.bytes), chunk, part_);
        rest = rest.subspan(chunk.bytes);
    }
    copy_seconds_ = seconds_since(started_);
    {
        const std::lock_guard lock(mutex_);
        copied_ = true;
        changed_.notify_all();
    }
    const std::byte* next = staging_.get();
    std::vector<std::span<const std::byte>> staged;
    for (const Chunk& chunk : part_.chunks) {
        staged.emplace_back(next, chunk.bytes);
        next += chunk.bytes;
    }
    write_chunks([&](size_t i, std::vector<std::byte>&) { return staged[i]; });
}

/// Copies, sums and writes chunk by chunk: what one thread copies and sums overlaps what another
/// writes.
void Writer::write_direct() {
    write_chunks([&](size_t i, std::vector<std::byte>& scratch) -> std::span<const std::byte> {
        scratch.resize(part_.chunks[i].bytes);
        fill(scratch, part_.chunks[i], part_);
        return scratch;
    });
    copy_seconds_ = seconds_since(started_);
}

/// Writes what `bytes_of` returns for each chunk, in several threads. Every `flush_bytes` the
/// thread that gets there syncs while the others write on, so that the disk does not idle until the
/// end.
void Writer::write_chunks(const ChunkBytes& bytes_of) {
    open_files();
    std::atomic<size_t> next{0};
    std::atomic<uint64_t> written{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&] {
        try {
            std::vector<std::byte> scratch;
            for (size_t i; (i = next++) < part_.chunks.size() && !cancel_;) {
                const Chunk& chunk = part_.chunks[i];
                core::io::WritableFile& file = *open_files_.at(chunk.file);
                file.write_at(chunk.offset, bytes_of(i, scratch));
                const uint64_t before = written.fetch_add(chunk.bytes);
                const bool due = before / flush_bytes != (before + chunk.bytes) / flush_bytes;
                if (due && options_.threads > 1) file.sync();
            }
        } catch (...) {
            next = part_.chunks.size();
            const std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < options_.threads; ++i)
        helpers.emplace_back([&] {
            work();
            cpu_seconds_ += thread_cpu_seconds();
        });
    work();
    for (std::thread& helper : helpers)
        helper.join();
    if (error) std::rethrow_exception(error);
    if (!cancel_) write_superblocks_and_sync();
}

/// The first and the last writer of a file close it off, and each makes its own range durable.
void Writer::write_superblocks_and_sync() {
    for (auto& [number, file] : open_files_) {
        const uint64_t size = plan_.file_sizes[number];
        const Superblock block{FileKind::data, static_cast<uint32_t>(number), size, origin()};
        for (const PlannedPiece& mine : part_.pieces) {
            if (mine.file != number) continue;
            if (mine.piece.offset == superblock_bytes)
                file->write_at(0, encode(block, Place::begin));
            if (mine.piece.offset + padded(mine.piece.bytes()) == size - superblock_bytes)
                file->write_at(size - superblock_bytes, encode(block, Place::end));
        }
        file->sync();
        file->close();
    }
}

void Writer::wait_copied() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return copied_; });
}

SaveState Writer::local_state() const {
    if (phase_ == Phase::idle) return {};
    const std::lock_guard lock(mutex_);
    if (busy_) return {1, 0};
    return {0, failure_.failed ? 1 : 0};
}

std::optional<SaveOutcome> Writer::advance(const SaveState& total) {
    if (phase_ == Phase::idle) return {};
    if (total.failed > 0) return abandon();
    if (total.busy > 0) return {};
    if (phase_ == Phase::committing) return conclude();
    start_commit();
    return {};
}

SaveOutcome Writer::finish() {
    CHECK(phase_ != Phase::idle, "no save is active");
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            changed_.wait_for(lock, tick, [&] { return !busy_; });
        }
        SaveState total = local_state();
        int64_t counts[2] = {total.busy, total.failed};
        ranks_.sum(counts);
        if (auto result = advance({counts[0], counts[1]})) return *result;
    }
}

/// All data is durable. The checksums (four bytes a MiB) travel to rank 0, whose background thread
/// writes the rest.
void Writer::start_commit() {
    join_worker();
    std::string mine;
    for (const PlannedPiece& planned : part_.pieces)
        mine.append(reinterpret_cast<const char*>(planned.piece.crc32c.data()),
                    planned.piece.crc32c.size() * sizeof(uint32_t));
    const std::vector<std::string> checksums = ranks_.gather(mine, 0);
    phase_ = Phase::committing;
    if (ranks_.rank() != 0) return;
    std::vector<size_t> taken(checksums.size(), 0);
    for (PlannedPiece& planned : plan_.pieces) {
        const auto rank = static_cast<size_t>(planned.rank);
        planned.piece.crc32c.resize(blocks_of(planned.piece.bytes()));
        const size_t bytes = planned.piece.crc32c.size() * sizeof(uint32_t);
        CHECK(taken[rank] + bytes <= checksums[rank].size(), "checksums of rank {}", rank);
        std::memcpy(planned.piece.crc32c.data(), checksums[rank].data() + taken[rank], bytes);
        taken[rank] += bytes;
    }
    launch(&Writer::commit_and_retain);
}

void Writer::commit_and_retain() {
    const auto require_ours = [this] {
        require_own_attempt(files_, folder_, mark_);
        if (options_.before_commit) options_.before_commit();
    };
    commit_attempt(files_, root_, folder_, require_ours, manifest_, plan_);
    remove_mark(files_, folder_);
    const Warn keep = [this](const std::string& warning) { warnings_.push_back(warning); };
    try {
        retention_.apply(root_, keep);
    } catch (const std::exception& error) {  // also no memory: the checkpoint stays committed
        keep(fmt::format("old checkpoints were not removed: {}", error.what()));
    }
}

SaveOutcome Writer::conclude() {
    join_worker();
    for (const std::string& warning : warnings_)
        options_.warn(warning);
    return outcome(true, fmt::format("checkpoint of step {} saved in {}", manifest_.step, folder_));
}

SaveOutcome Writer::abandon() {
    cancel_ = true;
    join_worker();
    const Failure failure = agree(ranks_, failure_);
    CHECK(failure.failed, "a save of step {} failed on no rank", manifest_.step);
    std::string message =
        fmt::format("the checkpoint of step {} was not saved, older ones are untouched: {}",
                    manifest_.step, failure.message);
    // Every rank has stopped writing: `agree` gathered from all.
    if (ranks_.rank() == 0 && !folder_.empty()) {
        try {
            // Under this name there may be another job's checkpoint by now.
            if (is_own_attempt(files_, folder_, mark_)) remove_checkpoint(files_, folder_);
        } catch (const Error& error) {
            message += fmt::format("; what it left behind was not removed: {}", error.what());
        }
    }
    return outcome(false, ranks_.broadcast(message, 0));
}

SaveOutcome Writer::outcome(bool committed, std::string message) {
    phase_ = Phase::idle;
    warnings_.clear();
    SaveOutcome result;
    result.committed = committed;
    result.step = manifest_.step;
    result.folder = committed ? folder_ : "";
    result.bytes = part_.bytes;
    result.copy_seconds = copy_seconds_;
    result.total_seconds = seconds_since(started_);
    result.background_cpu_seconds = cpu_seconds_;
    result.message = std::move(message);
    part_ = {};
    return result;
}

}  // namespace plinth::checkpoints
