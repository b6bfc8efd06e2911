// SPDX-License-Identifier: Apache-2.0
// What the writer's background thread does, and how the ranks wait for it.
#include <time.h>

#include <algorithm>

#include "checkpoints/attempt.h"
#include "checkpoints/commit.h"
#include "checkpoints/writer.h"
#include "kernels/runtime/trace.h"

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

}  // namespace

void Writer::launch(void (Writer::*work)()) {
    join_worker();
    busy_ = true;
    worker_ = std::thread([this, work] {
        Failure failure;
        try {
            const TraceRange range("save");
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

bool Writer::is_busy() const {
    const std::lock_guard lock(mutex_);
    return busy_;
}

void Writer::wait_for_worker() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, tick, [&] { return !busy_; });
}

void Writer::wait_for_all_workers() {
    do
        wait_for_worker();
    while (!ranks_.all_agree(!is_busy()));
    join_worker();
}

void Writer::make_folder() {
    make_durable_folder(files_, root_);
    const auto step = static_cast<uint64_t>(manifest_.step);
    // Counted before leftovers go: the number of a removed attempt is not given again.
    uint64_t used = newest_attempt(files_, root_, step);
    if (last_attempt_.step == step) used = std::max(used, last_attempt_.attempt);
    const Warn keep = [this](const std::string& warning) { warnings_.push_back(warning); };
    if (cleaned_root_ != root_) {
        remove_unfinished(files_, root_, keep);
        retain();  // an earlier process may have ended between its commit and this
    }
    cleaned_root_ = root_;
    last_attempt_ = {step, make_attempt(files_, root_, step, used, mark_)};
    manifest_.attempt = static_cast<int64_t>(last_attempt_.attempt);
}

void Writer::open_files() {
    for (const Chunk& chunk : part_.chunks) {
        auto& file = open_files_[chunk.file];
        if (!file) file = files_.open_write(join(folder_, data_name(chunk.file)), OpenMode::update);
    }
}

void Writer::take_staging(uint64_t bytes) {
    constexpr uint64_t page = 4096;
    if (staging_.defined() && staging_.in().bytes() >= bytes) return;
    staging_ = {};  // before the next: not two at a time
    CachingAllocator& memory = options_.allocator ? *options_.allocator : own_memory_;
    staging_ = core::Tensor::empty({static_cast<int64_t>(bytes)}, DType::u8, memory);
    // The system gives a page when it is first written to.
    auto* staging = static_cast<std::byte*>(staging_.out().data);
    for (uint64_t at = 0; at < bytes; at += page)
        staging[at] = std::byte{0};
}

void Writer::write_staged() {
    take_staging(part_.bytes);
    const std::span<std::byte> staging(static_cast<std::byte*>(staging_.out().data), part_.bytes);
    std::span<std::byte> rest = staging;
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
    const std::byte* next = staging.data();
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

void Writer::commit() {
    const auto require_ours = [this] {
        require_own_attempt(files_, folder_, mark_);
        if (options_.before_commit) options_.before_commit();
    };
    commit_attempt(files_, root_, folder_, require_ours, manifest_, plan_);
    remove_mark(files_, folder_);
}

void Writer::retain() {
    const Warn keep = [this](const std::string& warning) { warnings_.push_back(warning); };
    try {
        retention_.apply(root_, keep);
    } catch (const std::exception& error) {  // also no memory: the checkpoint stays committed
        keep(fmt::format("old checkpoints were not removed: {}", error.what()));
    }
}

/// Every rank has stopped writing.
void Writer::remove_folder() {
    // Under this name there may be another job's checkpoint by now.
    if (is_own_attempt(files_, folder_, mark_)) remove_checkpoint(files_, folder_);
}

}  // namespace plinth::checkpoints
