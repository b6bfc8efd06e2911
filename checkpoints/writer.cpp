// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/writer.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "checkpoints/attempt.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::join;

namespace {

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

void Writer::reserve(std::span<const core::StateTensor> tensors) {
    prepare_plan(tensors);
    Failure failure;
    try {
        take_staging(make_part(plan_, ranks_.rank(), tensors, options_.chunk_bytes).bytes);
    } catch (...) {
        failure = current_failure();
    }
    rethrow(agree(ranks_, failure));
}

void Writer::begin(const SaveRequest& request) {
    start(request, true);
}

void Writer::start(const SaveRequest& request, bool staged) {
    CHECK(!active(), "step {} is saved while step {} still is", request.step, manifest_.step);
    wait_retained();
    started_ = std::chrono::steady_clock::now();
    Failure mistake;
    try {
        check_request(request);
    } catch (...) {
        mistake = current_failure();
    }
    rethrow(agree(ranks_, mistake));
    prepare_plan(request.tensors);
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

void Writer::prepare_plan(std::span<const core::StateTensor> tensors) {
    const std::string table = encode_table(tensors);
    if (ranks_.all_agree(!table_.empty() && table == table_)) return;
    table_.clear();
    plan_ = make_plan(exchange_tables(ranks_, tensors, options_.node), options_.file_bytes);
    table_ = table;
}

/// Rank 0 makes the attempt's folder. Without one, `folder_` is empty on all ranks and the save has
/// failed.
void Writer::open_attempt(const SaveRequest& request) {
    manifest_ = ranks_.rank() == 0 ? request.manifest : Manifest{};
    manifest_.run_id = request.run_id;
    manifest_.step = request.step;
    manifest_.attempt = 0;
    root_ = request.root;
    if (ranks_.rank() == 0) launch(&Writer::make_folder);
    wait_for_all_workers();
    const std::string number = ranks_.broadcast(std::to_string(manifest_.attempt), 0);
    manifest_.attempt = std::stoll(number);
    folder_ =
        manifest_.attempt == 0 ? "" : join(root_, folder_name(origin().step, origin().attempt));
}

Origin Writer::origin() const {
    return {manifest_.run_id, static_cast<uint64_t>(manifest_.step),
            static_cast<uint64_t>(manifest_.attempt)};
}

void Writer::wait_copied() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return copied_; });
}

SaveState Writer::local_state() const {
    if (phase_ == Phase::idle) return {};
    const std::lock_guard lock(mutex_);
    if (busy_) return {1, 0};
    return {0, active() && failure_.failed ? 1 : 0};
}

std::optional<SaveOutcome> Writer::advance(const SaveState& total) {
    if (phase_ == Phase::idle) return {};
    if (phase_ == Phase::retaining) {
        if (total.busy == 0) end_retention();
        return {};
    }
    if (total.failed > 0) return abandon();
    if (total.busy > 0) return {};
    if (phase_ == Phase::committing) return conclude();
    start_commit();
    return {};
}

SaveOutcome Writer::finish() {
    CHECK(active(), "no save is active");
    for (;;) {
        wait_for_worker();
        SaveState total = local_state();
        int64_t counts[2] = {total.busy, total.failed};
        ranks_.sum(counts);
        if (auto result = advance({counts[0], counts[1]})) return *result;
    }
}

void Writer::wait_retained() {
    if (phase_ != Phase::retaining) return;
    wait_for_all_workers();
    end_retention();
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
    launch(&Writer::commit);
}

SaveOutcome Writer::conclude() {
    join_worker();
    SaveOutcome result =
        outcome(true, fmt::format("checkpoint of step {} saved in {}", manifest_.step, folder_));
    phase_ = Phase::retaining;
    if (ranks_.rank() == 0) launch(&Writer::retain);
    return result;
}

void Writer::end_retention() {
    join_worker();
    phase_ = Phase::idle;
    give_warnings();
}

void Writer::give_warnings() {
    for (const std::string& warning : warnings_)
        options_.warn(warning);
    warnings_.clear();
}

SaveOutcome Writer::abandon() {
    cancel_ = true;
    wait_for_all_workers();
    const Failure failure = agree(ranks_, failure_);
    CHECK(failure.failed, "a save of step {} failed on no rank", manifest_.step);
    std::string message =
        fmt::format("the checkpoint of step {} was not saved, older ones are untouched: {}",
                    manifest_.step, failure.message);
    if (ranks_.rank() == 0 && !folder_.empty()) launch(&Writer::remove_folder);
    wait_for_all_workers();
    if (ranks_.rank() == 0 && !folder_.empty() && failure_.failed)
        message += fmt::format("; what it left behind was not removed: {}", failure_.message);
    return outcome(false, ranks_.broadcast(message, 0));
}

SaveOutcome Writer::outcome(bool committed, std::string message) {
    phase_ = Phase::idle;
    give_warnings();
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
