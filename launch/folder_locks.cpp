// SPDX-License-Identifier: Apache-2.0
#include "launch/folder_locks.h"

#include <chrono>
#include <thread>

#include "checkpoints/attempt.h"
#include "checkpoints/failure.h"
#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

/// Between two looks at a lock. The other ranks wait in a collective no longer than this, so that
/// they do not run into its time limit, however long the wait is.
constexpr std::chrono::milliseconds look_every{200};

/// Collective. What rank 0 found becomes every rank's error.
void rethrow_first(core::Ranks& ranks, const checkpoints::Failure& found) {
    std::string bytes;
    if (found.failed) bytes = static_cast<char>(found.kind) + found.message;
    bytes = ranks.broadcast(bytes, 0);
    if (!bytes.empty())
        throw_error(static_cast<ErrorKind>(bytes.front()), __FILE__, __LINE__, bytes.substr(1));
}

}  // namespace

void FolderLocks::acquire(const std::vector<LockedFolder>& folders,
                          const core::io::RunLockOptions& options) {
    for (const LockedFolder& folder : folders)
        lock(folder, options);
}

void FolderLocks::lock(const LockedFolder& folder, core::io::RunLockOptions options) {
    options.key = folder.key;
    std::unique_ptr<core::io::RunLock> lock;
    int64_t waits = 1;
    while (waits != 0) {
        checkpoints::Failure failure;
        try {
            if (leads() && !lock) {
                checkpoints::make_durable_folder(files_, folder.path);
                lock = std::make_unique<core::io::RunLock>(files_, folder.path, options);
            }
            waits = leads() && !holds(folder.path) && !lock->try_acquire() ? 1 : 0;
        } catch (...) {
            failure = checkpoints::current_failure();
        }
        rethrow_first(ranks_, failure);
        if (waits != 0) std::this_thread::sleep_for(look_every);
        ranks_.sum({&waits, 1});
    }
    if (lock && lock->is_held()) locks_.push_back(std::move(lock));
}

/// Whether that folder is one of ours by another name.
bool FolderLocks::holds(const std::string& folder) const {
    const auto bytes =
        core::io::read_if_there(files_, core::io::join(folder, core::io::run_lock_name));
    const auto record = bytes ? core::io::LockRecord::parse(*bytes) : std::nullopt;
    for (const auto& lock : locks_)
        if (record && record->token == lock->token()) return true;
    return false;
}

void FolderLocks::check_here() const {
    for (const auto& lock : locks_) {
        const std::string loss = lock->loss();
        REQUIRE(io, loss.empty(), "{}", loss);
    }
}

void FolderLocks::require_held() {
    checkpoints::Failure lost;
    for (const auto& lock : locks_) {
        try {
            lost.message = lock->loss();
        } catch (const Error&) {  // the system's error: not known to be lost
        }
        lost.failed = !lost.message.empty();
        lost.kind = ErrorKind::io;
        if (lost.failed) break;
    }
    rethrow_first(ranks_, lost);
}

}  // namespace plinth::launch
