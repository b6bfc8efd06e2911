// SPDX-License-Identifier: Apache-2.0
// Ranks that compute and exchange in steps, and one that goes wrong: mpirun -n N hanging_ranks CASE
// SECONDS FILE. What goes wrong stands here and not in the program. Each rank prints its process
// number first.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "core/io/file.h"
#include "kernels/runtime/thread_pool.h"
#include "parallel/comm/heartbeat.h"
#include "parallel/comm/mpi.h"

namespace plinth::test {
namespace {

using parallel::Communicator;
using parallel::Phase;
using parallel::PhaseMark;
using parallel::Reduce;

/// Goes wrong on one rank in step 5; afterwards nothing is right any more.
using Fault = std::function<void(Communicator& world, Communicator& part)>;

void loop_for_ever() {
    for (std::atomic<uint64_t> turns{0};; ++turns) {
    }
}

void call(Communicator& group, const std::string& label) {
    int64_t one = 1;
    group.all_reduce(label, std::span(&one, 1), Reduce::sum);
}

const std::map<std::string, Fault> faults = {
    {"none", [](Communicator&, Communicator&) {}},
    {"loop", [](Communicator&, Communicator&) { loop_for_ever(); }},
    {"sleep",
     [](Communicator&, Communicator&) { std::this_thread::sleep_for(std::chrono::hours(1)); }},
    // Its bytes are taken for those of the right one, and it waits in the next.
    {"other_call", [](Communicator& world, Communicator&) { call(world, "another sum"); }},
    {"other_kind",
     [](Communicator& world, Communicator&) {
         std::byte byte{};
         world.start_broadcast("another broadcast", {&byte, 1}, 0).wait();
     }},
    // The others of its part are in the world's.
    {"other_group", [](Communicator&, Communicator& part) { call(part, "sum of a part"); }},
    {"lost_message",
     [](Communicator& world, Communicator&) {
         std::byte byte{};
         world.receive("never sent", {&byte, 1}, 2);
     }},
    {"slow_disk",
     [](Communicator& world, Communicator&) {
         const PhaseMark mark(world.activity(), Phase::data);
         std::this_thread::sleep_for(std::chrono::seconds(5));
     }},
};

void train(Communicator& world, Communicator& part, const Fault& fault, int64_t steps) {
    ThreadPool pool(1);
    world.activity().count(pool.progress());
    std::atomic<double> sink{0};
    for (int64_t step = 1; step <= steps; ++step) {
        world.activity().set_step(step);
        {
            const PhaseMark mark(world.activity(), Phase::backward);
            pool.run(200, [&](int64_t chunk) {
                double sum = 0;
                for (int i = 0; i < 20000; ++i)
                    sum += 1.0 / static_cast<double>(chunk + i + 1);
                sink = sum;
            });
            if (step == 5 && world.rank() == 1) fault(world, part);
        }
        const PhaseMark mark(world.activity(), Phase::reduce);
        call(part, "part sums");
        call(world, "step sums");
        if (world.rank() == 0) std::printf("step %ld\n", static_cast<long>(step));
        std::fflush(stdout);
    }
}

int run(int argc, char** argv) {
    parallel::MpiWorld world;
    return world.run([&](Communicator& ranks) {
        REQUIRE(config, argc == 5, "usage: mpirun -n N hanging_ranks CASE SECONDS STEPS FILE");
        const auto fault = faults.find(argv[1]);
        REQUIRE(config, fault != faults.end(), "{}: no such case", argv[1]);
        const std::string file = fmt::format("{}.rank-{}", argv[4], ranks.rank());
        const parallel::Heartbeat heartbeat(
            ranks, {.limit = std::atof(argv[2]),
                    .patience = 600.0,
                    .exit_code = 162,
                    .report =
                        [&](const std::string& lines) {
                            std::fputs(lines.c_str(), stderr);
                            core::io::write_atomically(core::io::posix(), file, lines);
                        },
                    .warn = [](const std::string& line) { std::fputs(line.c_str(), stderr); }});
        const auto part = ranks.split(ranks.rank() / 2, "part");
        std::printf("rank %d is process %d\n", ranks.rank(), static_cast<int>(getpid()));
        std::fflush(stdout);
        train(ranks, *part, fault->second, std::atol(argv[3]));
        if (ranks.rank() == 0) std::printf("done\n");
        return 0;
    });
}

}  // namespace
}  // namespace plinth::test

int main(int argc, char** argv) {
    return plinth::test::run(argc, argv);
}
