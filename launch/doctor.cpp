// SPDX-License-Identifier: Apache-2.0
#include "launch/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "core/io/file.h"
#include "core/io/page_cache.h"
#include "kernels/add.h"
#include "launch/environment.h"
#include "launch/peak_flops.h"
#include "launch/session.h"
#include "parallel/comm/mpi.h"
#include "parallel/comm/nccl_library.h"

namespace plinth::launch {

namespace {

constexpr int64_t mib = int64_t{1} << 20;
constexpr double slow_product = 0.6;  ///< of the median: less is worth a word
constexpr double slow_link = 0.5;

std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ';');
    return text;
}

/// "0-3,8" of ascending numbers.
std::string ranges(const std::vector<int>& numbers) {
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1)
            ++last;
        text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
        if (last > i) text += fmt::format("-{}", numbers[last]);
        i = last + 1;
    }
    return text;
}

std::string nccl_text(const RankReport& rank) {
    return rank.nccl.empty() ? fmt::format("no NCCL ({})", rank.no_nccl) : "NCCL " + rank.nccl;
}

template <typename Field>
double median(const std::vector<RankReport>& ranks, Field field) {
    std::vector<double> values;
    for (const RankReport& rank : ranks)
        values.push_back(rank.*field);
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

/// The shortest of `times` runs of `body`, in seconds.
template <typename Body>
double best_seconds(Session& session, int times, Body&& body) {
    double best = 1e9;
    for (int i = 0; i < times; ++i) {
        const double began = session.seconds();
        body();
        best = std::min(best, session.seconds() - began);
    }
    return std::max(best, 1e-9);
}

double copy_rate(Session& session) {
    const core::Scope scope(session.scope(DType::f32));
    core::Tensor x = scope.empty({16 * mib}, DType::f32), y = scope.empty({16 * mib}, DType::f32);
    kernels::fill(x.out(), 1.0f, session.stream());
    const double seconds =
        best_seconds(session, 4, [&] { kernels::scale(y.out(), x.in(), 1.0f, session.stream()); });
    return 2.0 * 64.0 * static_cast<double>(mib) / seconds;
}

/// Time of a message of `bytes` around the ring, every rank sending at once.
double ring_seconds(Session& session, size_t bytes, int times) {
    parallel::Communicator& world = session.world();
    const int next = (world.rank() + 1) % world.size(),
              before = (world.rank() + world.size() - 1) % world.size();
    std::vector<std::byte> out(bytes), in(bytes);
    return best_seconds(session, times,
                        [&] { world.send_receive("doctor", out, next, in, before); });
}

void find_devices(RankReport& report) {
    report.no_nccl = one_line(parallel::no_nccl_reason());
    if (report.no_nccl.empty()) report.nccl = parallel::nccl_library().version();
    report.no_gpu = one_line(no_cuda_device_reason());
    for (int i = 0; report.no_gpu.empty() && i < cuda_module().devices(); ++i) {
        const DeviceInfo info = cuda_module().info(i);
        report.gpus.push_back(fmt::format(
            "cuda:{} {}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB; {}", i,
            info.name, info.capability / 10, info.capability % 10, info.multiprocessors,
            static_cast<double>(info.memory_bytes) / (1 << 30), info.versions));
    }
}

RankReport examine(Session& session) {
    parallel::Communicator& world = session.world();
    RankReport report{.host = world.host(),
                      .program = one_line(version_text()),
                      .cores = usable_cores(),
                      .threads = session.threads(),
                      .memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                                static_cast<double>(sysconf(_SC_PAGESIZE))};
    find_devices(report);
    world.barrier("doctor");
    report.fp32 = measured_peak_flops(session, DType::f32);
    report.bf16 = measured_peak_flops(session, DType::bf16);
    report.copy = copy_rate(session);
    world.barrier("doctor");
    if (world.size() > 1) {
        report.latency = ring_seconds(session, 8, 50);
        report.link =
            8.0 * static_cast<double>(mib) / ring_seconds(session, static_cast<size_t>(8 * mib), 5);
    }
    return report;
}

std::string table_of(const std::vector<RankReport>& ranks) {
    std::string text =
        "rank  host              cores     threads  memory    fp32       bf16       copy      "
        "latency   link\n"
        "                                           GiB       GFLOP/s    GFLOP/s    GB/s      us   "
        "     GB/s\n";
    for (size_t r = 0; r < ranks.size(); ++r) {
        const RankReport& rank = ranks[r];
        text += fmt::format("{:<5} {:<17} {:<9} {:<8} {:<9.1f} {:<10.1f} {:<10.1f} {:<9.1f}", r,
                            rank.host, ranges(rank.cores), rank.threads, rank.memory / (1 << 30),
                            rank.fp32 / 1e9, rank.bf16 / 1e9, rank.copy / 1e9);
        if (ranks.size() > 1)
            text += fmt::format(" {:<9.1f} {:.2f}", rank.latency * 1e6, rank.link / 1e9);
        text += "\n";
    }
    return text;
}

/// Write (made durable) and read, past what the system keeps in memory where it can be told to drop
/// it, in blocks of 8 MiB; the file is removed.
std::string disk_text(Session& session, const std::string& folder, int64_t blocks) {
    core::io::FileSystem& files = session.files();
    const int64_t bytes = blocks * 8 * mib;
    REQUIRE(io, files.free_bytes(folder) >= static_cast<uint64_t>(4 * bytes),
            "{}: too full for a file of {} MiB", folder, bytes / mib);
    const std::string path = core::io::join(folder, fmt::format("plinth-doctor.{}", getpid()));
    std::vector<std::byte> block(static_cast<size_t>(8 * mib));
    for (size_t i = 0; i < block.size(); ++i)
        block[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    const auto rate = [&](double began) {
        return static_cast<double>(bytes) / std::max(session.seconds() - began, 1e-9) / 1e6;
    };
    double began = session.seconds();
    try {
        const auto out = files.open_write(path, core::io::OpenMode::create_new);
        for (int64_t i = 0; i < blocks; ++i)
            out->append(block);
        out->sync();
        out->close();
        const double written = rate(began);
        const bool is_dropped = core::io::drop_from_page_cache(path);
        began = session.seconds();
        const auto in = files.open_read(path);
        for (int64_t i = 0; i < blocks; ++i)
            in->read_at(static_cast<uint64_t>(i * 8 * mib), block);
        const double read = rate(began);
        files.remove(path);
        return fmt::format(
            "{} MiB written and made durable at {:.0f} MB/s, read {} at {:.0f} MB/s{}", bytes / mib,
            written, is_dropped ? "past the page cache" : "from memory", read,
            is_dropped ? ""
                       : " (the system does not drop this file from memory: what the disk itself "
                         "reads is not seen)");
    } catch (const Error&) {
        if (files.exists(path)) files.remove(path);
        throw;
    }
}

/// Of the folder that was named, or, shorter, of the current one, where a failure is no problem of
/// the machine.
std::string disk_text(Session& session, const std::string& folder) {
    if (!folder.empty()) return fmt::format("disk: {}: {}", folder, disk_text(session, folder, 32));
    try {
        return fmt::format("disk: the current folder: {}; folder=PATH measures another",
                           disk_text(session, ".", 8));
    } catch (const Error& error) {
        return fmt::format(
            "disk: not measured in the current folder ({}); folder=PATH measures "
            "another",
            error.what());
    }
}

std::string folder_of(const std::vector<std::string>& words) {
    std::string folder;
    for (const std::string& word : words) {
        REQUIRE(config, word.starts_with("folder=") && word.size() > 7,
                "doctor: '{}' is not understood; the only word is folder=PATH", word);
        folder = word.substr(7);
    }
    return folder;
}

}  // namespace

std::string encode(const RankReport& report) {
    std::ostringstream out;
    out.precision(17);
    for (const std::string& line :
         {report.host, report.program, report.nccl, report.no_nccl, report.no_gpu})
        out << line << '\n';
    out << report.gpus.size() << '\n';
    for (const std::string& gpu : report.gpus)
        out << gpu << '\n';
    out << report.cores.size();
    for (int core : report.cores)
        out << ' ' << core;
    out << ' ' << report.threads << ' ' << report.memory << ' ' << report.fp32 << ' ' << report.bf16
        << ' ' << report.copy << ' ' << report.latency << ' ' << report.link;
    return out.str();
}

RankReport decode(const std::string& text) {
    std::istringstream in(text);
    RankReport report;
    for (std::string* line :
         {&report.host, &report.program, &report.nccl, &report.no_nccl, &report.no_gpu})
        std::getline(in, *line);
    size_t gpus = 0, cores = 0;
    in >> gpus >> std::ws;
    report.gpus.resize(gpus);
    for (std::string& gpu : report.gpus)
        std::getline(in, gpu);
    in >> cores;
    report.cores.resize(cores);
    for (int& core : report.cores)
        in >> core;
    in >> report.threads >> report.memory >> report.fp32 >> report.bf16 >> report.copy >>
        report.latency >> report.link;
    CHECK(!in.fail(), "a rank's report cannot be read: {}", text);
    return report;
}

std::vector<std::string> problems_of(const std::vector<RankReport>& ranks) {
    std::vector<std::string> problems;
    struct Host {
        int threads = 0;
        std::set<int> cores;
    };
    std::map<std::string, Host> hosts;
    const double usual = median(ranks, &RankReport::fp32),
                 usual_link = median(ranks, &RankReport::link);
    for (size_t r = 0; r < ranks.size(); ++r) {
        const RankReport& rank = ranks[r];
        Host& host = hosts[rank.host];
        host.threads += rank.threads;
        host.cores.insert(rank.cores.begin(), rank.cores.end());
        if (rank.program != ranks[0].program)
            problems.push_back(fmt::format(
                "rank {} on {} runs another program or CPU than rank 0 on {}: '{}', not '{}'; "
                "equal bits are not promised",
                r, rank.host, ranks[0].host, rank.program, ranks[0].program));
        if (!rank.gpus.empty() && !ranks[0].gpus.empty() && rank.nccl != ranks[0].nccl)
            problems.push_back(fmt::format(
                "rank {} on {} has {}, rank 0 on {} {}: run.device_exchange=nccl needs the same "
                "everywhere",
                r, rank.host, nccl_text(rank), ranks[0].host, nccl_text(ranks[0])));
        if (rank.fp32 < slow_product * usual)
            problems.push_back(fmt::format(
                "rank {} on {} computes at {:.0f} % of the median rank: the others will wait for "
                "it; look for other work on its cores ({}), or a slower CPU",
                r, rank.host, 100.0 * rank.fp32 / usual, ranges(rank.cores)));
        if (ranks.size() > 2 && rank.link < slow_link * usual_link)
            problems.push_back(fmt::format(
                "the link from rank {} on {} to rank {} on {} runs at {:.0f} % of the median", r,
                rank.host, (r + 1) % ranks.size(), ranks[(r + 1) % ranks.size()].host,
                100.0 * rank.link / usual_link));
    }
    for (const auto& [name, host] : hosts)
        if (host.threads > static_cast<int>(host.cores.size()))
            problems.push_back(fmt::format(
                "{}: {} threads of all ranks share {} cores: start fewer ranks there, give each "
                "rank its own cores (mpirun --bind-to core --map-by slot:PE=N), or lower "
                "run.threads",
                name, host.threads, host.cores.size()));
    return problems;
}

namespace {

/// "KIND of a, b:TEXT" for what is the same on some machines; "KIND:TEXT" if it is so on all.
std::string by_machine(const std::vector<RankReport>& ranks, const std::string& kind,
                       std::string (*text_of)(const RankReport&)) {
    std::vector<std::pair<std::string, std::vector<std::string>>> found;
    std::set<std::string> seen;
    for (const RankReport& rank : ranks) {
        if (!seen.insert(rank.host).second) continue;  // it speaks for its machine
        const std::string text = text_of(rank);
        const auto same = std::ranges::find(found, text, [](const auto& one) { return one.first; });
        if (same != found.end())
            same->second.push_back(rank.host);
        else
            found.push_back({text, {rank.host}});
    }
    std::string lines;
    for (const auto& [text, hosts] : found)
        lines += found.size() == 1
                     ? fmt::format("{}:{}\n", kind, text)
                     : fmt::format("{} of {}:{}\n", kind, fmt::join(hosts, ", "), text);
    return lines;
}

}  // namespace

std::string devices_text(const std::vector<RankReport>& ranks) {
    return by_machine(ranks, "GPUs",
                      [](const RankReport& rank) {
                          if (rank.gpus.empty()) return fmt::format(" none ({})", rank.no_gpu);
                          return fmt::format("\n  {}", fmt::join(rank.gpus, "\n  "));
                      }) +
           by_machine(ranks, "NCCL", [](const RankReport& rank) {
               return rank.nccl.empty() ? fmt::format(" none ({})", rank.no_nccl)
                                        : fmt::format(" {}", rank.nccl);
           });
}

int doctor(const std::vector<std::string>& words) {
    const std::string folder = folder_of(words);
    parallel::MpiWorld world;
    return world.run([&](parallel::Communicator& communicator) {
        Session session(communicator, {.local_ranks = world.local_size()});
        session.print_result(version_text());
        std::vector<RankReport> ranks;
        for (const std::string& text : communicator.all_gather("doctor", encode(examine(session))))
            ranks.push_back(decode(text));
        session.print_result(devices_text(ranks));
        session.print_result(table_of(ranks));
        if (session.speaks()) session.print_result(disk_text(session, folder));
        const std::vector<std::string> problems = problems_of(ranks);
        for (const std::string& problem : problems)
            session.warn(problem);
        session.print_result(problems.empty() ? "no problem found"
                                              : fmt::format("problems found: {}", problems.size()));
        return problems.empty() ? 0 : exit_code(ErrorKind::io);
    });
}

}  // namespace plinth::launch
