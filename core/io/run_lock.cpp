// SPDX-License-Identifier: Apache-2.0
#include "core/io/run_lock.h"

#include <fmt/format.h>

#include <span>
#include <utility>

#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::core::io {

namespace {

const std::string claim_prefix = std::string(run_lock_name) + ".next-";

void write(WritableFile& file, const LockRecord& record) {
    const std::string bytes = record.encode();
    file.write_at(0, std::as_bytes(std::span(bytes)));
    file.sync();  // over NFS others see it from here on
}

std::string name_of(const ProcessIdentity& process) {
    return fmt::format("process {} on {}", process.pid, process.host);
}

double seconds(std::chrono::milliseconds time) {
    return std::chrono::duration<double>(time).count();
}

}  // namespace

RunLock::RunLock(FileSystem& files, std::string folder, RunLockOptions options)
    : files_(files),
      folder_(std::move(folder)),
      path_(join(folder_, run_lock_name)),
      options_(std::move(options)),
      record_{.holder = options_.self, .token = new_token()} {}

RunLock::~RunLock() {
    end_beating();
    try {
        release();
    } catch (const Error&) {  // the file stays: the next start finds its process gone
    }
}

bool RunLock::try_acquire() {
    CHECK(!is_held(), "{} is locked twice", folder_);
    if (create()) return true;
    const auto bytes = read_if_there(files_, path_);
    if (!bytes) return false;  // released just now
    switch (judge(path_, *bytes)) {
        case Verdict::undecided:
            return false;
        case Verdict::live:
            refuse(*bytes);
        case Verdict::stale:
            return take_over(*bytes, claim_of(path_, *bytes));
    }
    return false;
}

bool RunLock::create() {
    auto file = files_.open_new(path_);
    if (!file) return false;
    try {
        write(*file, record_);
    } catch (...) {
        discard(path_);
        throw;
    }
    return hold(std::move(file));
}

RunLock::Watch& RunLock::watch(const std::string& path, const std::string& bytes,
                               const std::string& token) {
    const auto [entry, is_new] = watches_.try_emplace(path);
    Watch& seen = entry->second;
    const bool changed = token.empty() && seen.bytes != bytes;
    if (is_new || seen.token != token || changed)
        seen = {.token = token, .bytes = bytes, .since = options_.now()};
    return seen;
}

RunLock::Verdict RunLock::judge(const std::string& path, const std::string& bytes) {
    const auto record = LockRecord::parse(bytes);
    Watch& seen = watch(path, bytes, record ? record->token : "");
    const auto watched = options_.now() - seen.since;
    if (record && why_out_of_sight(record->holder, options_.self).empty()) {
        const Life life = options_.life_of(record->holder);
        if (life == Life::gone) return Verdict::stale;
        if (life == Life::alive)
            return watched >= options_.patience ? Verdict::live : Verdict::undecided;
    }
    if (seen.bytes != bytes) return Verdict::live;  // the heartbeat moves
    if (watched >= options_.standstill) return Verdict::stale;
    if (!seen.said && watched >= options_.patience) {
        seen.said = true;
        say(waited_for(bytes));
    }
    return Verdict::undecided;
}

void RunLock::refuse(const std::string& bytes) const {
    const auto record = LockRecord::parse(bytes);
    CHECK(record, "{}: what is no lock refuses nobody", path_);
    const bool in_sight = why_out_of_sight(record->holder, options_.self).empty();
    FAIL(io,
         "{}: another job writes into this folder: {} holds {}{}; stop that job, or choose another "
         "{}",
         folder_, name_of(record->holder), run_lock_name,
         in_sight ? "" : ", and its heartbeat moves", options_.key);
}

/// The name that one who replaces or removes the file with these bytes creates first.
std::string RunLock::claim_of(const std::string& path, const std::string& bytes) const {
    const auto record = LockRecord::parse(bytes);
    return join(folder_,
                claim_prefix + (record ? record->token : to_hex(xxh3_128(path + "\n" + bytes))));
}

bool RunLock::take_over(const std::string& stale, const std::string& claim) {
    if (auto file = files_.open_new(claim)) {
        try {
            write(*file, record_);
            return replace(stale, claim, std::move(file));
        } catch (...) {
            discard(claim);
            throw;
        }
    }
    const auto rival = read_if_there(files_, claim);
    if (!rival) return false;
    switch (judge(claim, *rival)) {
        case Verdict::undecided:
            return false;
        case Verdict::live:
            refuse(*rival);
        case Verdict::stale:
            return take_over(stale, claim_of(claim, *rival));
    }
    return false;
}

/// The claim is ours. Whether what it stands for is still there is seen only now.
bool RunLock::replace(const std::string& stale, const std::string& claim,
                      std::unique_ptr<WritableFile> file) {
    if (read_if_there(files_, path_) != stale) {
        discard(claim);
        return false;
    }
    try {
        files_.rename(claim, path_);
    } catch (const Error&) {
        if (!files_.exists(claim)) return false;  // a holder has tidied it away
        throw;
    }
    if (!hold(std::move(file))) return false;
    say(left_by(stale));
    return true;
}

bool RunLock::hold(std::unique_ptr<WritableFile> file) {
    if (!is_mine(path_)) return false;  // whatever was renamed to it: the token decides
    file_ = std::move(file);
    watches_.clear();
    remove_left_claims();
    begin_beating();
    return true;
}

bool RunLock::is_mine(const std::string& path) const {
    const auto bytes = read_if_there(files_, path);
    const auto record = bytes ? LockRecord::parse(*bytes) : std::nullopt;
    return record && record->token == record_.token;
}

/// Claims on locks that are no more: nobody can succeed with one of them.
void RunLock::remove_left_claims() {
    for (const std::string& name : files_.list(folder_))
        if (name.starts_with(claim_prefix)) discard(join(folder_, name));
}

void RunLock::discard(const std::string& path) noexcept {
    try {
        files_.remove(path);
    } catch (const Error&) {  // somebody else did, or a small file stays until the next holder
    }
}

std::string RunLock::loss() const {
    const auto bytes = read_if_there(files_, path_);
    if (!bytes)
        return fmt::format("{}: this job's lock was removed: this job ends, and {}", path_,
                           options_.loses);
    const auto record = LockRecord::parse(*bytes);
    if (record && record->token == record_.token) return "";
    const std::string other = record ? name_of(record->holder) +
                                           " has taken over this job's lock, "
                                           "which had stood still for too long"
                                     : "another program has overwritten this job's lock";
    return fmt::format("{}: {}: this job ends, and {}", path_, other, options_.loses);
}

void RunLock::beat() {
    CHECK(is_held(), "a heartbeat of a lock that is not held");
    const std::string beats = LockRecord::encode_beats(++record_.beats);
    file_->write_at(record_.beats_offset(), std::as_bytes(std::span(beats)));
    file_->sync();
}

void RunLock::begin_beating() {
    if (options_.beat_every.count() == 0) return;
    ends_ = false;
    beating_ = std::thread([this] {
        std::unique_lock lock(mutex_);
        while (!ended_.wait_for(lock, options_.beat_every, [this] { return ends_; })) {
            try {
                beat();
            } catch (const Error&) {  // tried again; if it cost us the lock, `loss` says so
            }
        }
    });
}

void RunLock::end_beating() {
    {
        const std::lock_guard lock(mutex_);
        ends_ = true;
    }
    ended_.notify_all();
    if (beating_.joinable()) beating_.join();
}

void RunLock::release() {
    end_beating();
    if (!is_held()) return;
    file_ = nullptr;
    const std::string claim = join(folder_, claim_prefix + record_.token);
    const auto file = files_.open_new(claim);
    if (!file) return;  // somebody takes it over at this moment
    // Should this process end here, others must find a claim that is told apart from the lock.
    write(*file, {.holder = options_.self, .token = new_token()});
    if (is_mine(path_)) files_.remove(path_);
    files_.remove(claim);
}

void RunLock::say(const std::string& line) const {
    if (options_.say) options_.say(line);
}

std::string RunLock::left_by(const std::string& bytes) const {
    const auto record = LockRecord::parse(bytes);
    const double period = seconds(options_.standstill);
    if (!record)
        return fmt::format("{}: cannot be read as a lock and stood still for {} s: taken over",
                           path_, period);
    const bool in_sight = why_out_of_sight(record->holder, options_.self).empty() &&
                          options_.life_of(record->holder) == Life::gone;
    return fmt::format(
        "{}: left by {}, {}: taken over", path_, name_of(record->holder),
        in_sight ? "which has ended" : fmt::format("whose heartbeat stood still for {} s", period));
}

std::string RunLock::waited_for(const std::string& bytes) const {
    const auto record = LockRecord::parse(bytes);
    const double period = seconds(options_.standstill);
    if (!record)
        return fmt::format(
            "{}: cannot be read as a lock (torn by a crash?): watched for {} s and then taken "
            "over, if it does not change",
            path_, period);
    const std::string why = why_out_of_sight(record->holder, options_.self);
    return fmt::format(
        "{}: held by {}, which cannot be looked up from here ({}): its heartbeat is watched for "
        "{} s; if it stands still, the lock is taken over",
        path_, name_of(record->holder), why.empty() ? "this user may not" : why, period);
}

}  // namespace plinth::core::io
