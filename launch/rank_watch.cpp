// SPDX-License-Identifier: Apache-2.0
#include "launch/rank_watch.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>

#include "core/io/file.h"
#include "core/io/print.h"
#include "launch/exit_codes.h"

namespace plinth::launch {

namespace {

std::string utc_time() {
    const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm parts{};
    gmtime_r(&now, &parts);
    std::array<char, 32> text{};
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text.data();
}

void append_report(const std::string& folder, int rank, const std::string& lines) {
    if (folder.empty()) return;
    try {
        core::io::FileSystem& files = core::io::posix();
        files.make_directories(folder);
        const auto log =
            files.open_write(core::io::join(folder, fmt::format("hang_reports.rank-{}.log", rank)),
                             core::io::OpenMode::append);
        const std::string text = utc_time() + "\n" + lines;
        log->append(std::as_bytes(std::span(text)));
        log->sync();
        log->close();
    } catch (const Error& error) {
        core::io::print_best_effort(
            stderr, fmt::format("plinth: hang: the report is in no file: {}\n", error.what()));
    }
}

}  // namespace

std::unique_ptr<parallel::Heartbeat> watch_ranks(parallel::Communicator& world,
                                                 const RunSection& run) {
    if (run.hang_seconds == 0) return nullptr;
    REQUIRE(config, run.hang_seconds >= 1,
            "run.hang_seconds: {} s is shorter than a busy machine may keep a thread waiting; give "
            "1 s or more, or 0 for no heartbeat",
            run.hang_seconds);
    return std::make_unique<parallel::Heartbeat>(
        world, parallel::HeartbeatConfig{
                   .limit = run.hang_seconds,
                   .patience = run.timeout,
                   .exit_code = exit_hang,
                   .report =
                       [folder = run.folder, rank = world.rank()](const std::string& lines) {
                           core::io::print_best_effort(stderr, lines);
                           append_report(folder, rank, lines);
                       },
                   .warn =
                       [](const std::string& line) {
                           core::io::print_best_effort(stderr, fmt::format("warning: {}\n", line));
                       }});
}

}  // namespace plinth::launch
