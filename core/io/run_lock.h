// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/io/file.h"
#include "core/io/lock_record.h"
#include "core/io/process_identity.h"

namespace plinth::core::io {

/// The lock's file in the folder that it guards.
inline constexpr const char* run_lock_name = "run.lock";

struct RunLockOptions {
    std::string key = "run.folder";  ///< of the configuration: what one who is refused may change
    std::string loses =
        "saves nothing more; the last checkpoint stays";  ///< a job without its lock
    ProcessIdentity self = this_process();
    std::function<Life(const ProcessIdentity&)> life_of = io::life_of;
    std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
    std::chrono::milliseconds beat_every{10'000};  ///< 0: no thread does it, the caller does
    std::chrono::milliseconds standstill{60'000};  ///< a heartbeat that stood so long has ended
    /// A process that was killed just now may take a moment to go; so may one that has created its
    /// file and has not written it.
    std::chrono::milliseconds patience{2'000};
    std::function<void(const std::string&)> say;  ///< one line of what is waited for or taken over
};

/// At most one process at a time holds the lock of a folder. It is a file that names its holder and
/// carries a heartbeat, so that a lock whose holder was killed does not stay:
///
/// - a holder on this machine (host, boot, pid namespace) is looked up: if it is gone, its lock is
///   taken over at once; if it lives, the caller is refused;
/// - any other holder is watched by this machine's clock, never by comparing two clocks: refused as
///   soon as its heartbeat moves, taken over when that has stood still for `standstill`. So is a
///   file that cannot be read as a lock, except that a change begins the watch again.
///
/// Who replaces or removes the file of a holder with token t must first create the file
/// "run.lock.next-t", and must then still find t in run.lock: of several takers one succeeds, and
/// after it the name t means nothing any more. A taker that died between is itself taken over in
/// the same way, by its own token.
///
/// Assumed of the file system: exclusive creation and renaming are atomic for all who share it
/// (POSIX; NFS from version 3 on), and one who opens a file sees what was synced before (NFS:
/// close-to-open). A holder that is suspended for longer than `standstill` loses its lock without
/// knowing it, which no lock file can prevent: so ask `loss` before anything that cannot be undone.
class RunLock {
  public:
    /// The folder exists. Nothing happens yet.
    RunLock(FileSystem& files, std::string folder, RunLockOptions options = {});
    /// Releases, as far as that is possible.
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

    /// One look. True: the lock is held from now on. False: ask again in a fraction of a second.
    /// Refused (kind io, with a line that names folder, host, process and the fix): somebody else
    /// holds it.
    bool try_acquire();
    bool is_held() const { return file_ != nullptr; }
    /// Empty while the held lock is ours; else one line that says who has it now. Any thread.
    std::string loss() const;
    /// Moves the heartbeat.
    void beat();
    /// Removes the file, unless it is another's by now. Harmless when nothing is held.
    void release();

    const std::string& path() const { return path_; }
    const std::string& token() const { return record_.token; }

  private:
    enum class Verdict { undecided, live, stale };
    /// What a file held when it was first seen with this holder.
    struct Watch {
        std::string token;  ///< empty: not a lock
        std::string bytes;
        std::chrono::steady_clock::time_point since;
        bool said = false;
    };

    Verdict judge(const std::string& path, const std::string& bytes);
    Watch& watch(const std::string& path, const std::string& bytes, const std::string& token);
    [[noreturn]] void refuse(const std::string& bytes) const;
    bool create();
    bool take_over(const std::string& stale, const std::string& claim);
    bool replace(const std::string& stale, const std::string& claim,
                 std::unique_ptr<WritableFile> file);
    bool hold(std::unique_ptr<WritableFile> file);
    std::string claim_of(const std::string& path, const std::string& bytes) const;
    bool is_mine(const std::string& path) const;
    void remove_left_claims();
    void discard(const std::string& path) noexcept;
    void begin_beating();
    void end_beating();
    void say(const std::string& line) const;
    std::string left_by(const std::string& bytes) const;
    std::string waited_for(const std::string& bytes) const;

    FileSystem& files_;
    const std::string folder_;
    const std::string path_;
    const RunLockOptions options_;
    LockRecord record_;
    std::map<std::string, Watch> watches_;  ///< by path
    std::unique_ptr<WritableFile> file_;    ///< the lock, while it is held

    std::thread beating_;
    std::mutex mutex_;
    std::condition_variable ended_;
    bool ends_ = false;
};

}  // namespace plinth::core::io
