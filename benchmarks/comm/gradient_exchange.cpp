// SPDX-License-Identifier: Apache-2.0
// What the data-parallel sum costs over MPI, without any computing:
//   mpirun --bind-to none -n N bench_comm [MiB of gradients]
// For several bucket sizes: exchange of every bucket, ordered fold, gather of the totals; and the
// transport's own reduction of the same bytes, whose order of additions is not ours to choose.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "parallel/comm/mpi.h"
#include "parallel/data_parallel/lane_reducer.h"

namespace plinth::parallel {
namespace {

/// Seconds of the fastest of some runs: other programs share this machine.
template <typename Body>
double best_of(int runs, Communicator& comm, Body&& body) {
    double best = 1e9;
    for (int run = 0; run < runs; ++run) {
        comm.barrier("begin");
        const auto began = std::chrono::steady_clock::now();
        body();
        comm.barrier("end");
        best = std::min(
            best, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    }
    return best;
}

void print(const Communicator& comm, const std::string& what, int64_t bytes, double seconds) {
    if (comm.rank() == 0)
        fmt::print("{} ranks  {:<32} {:8.1f} ms  {:6.2f} GB/s of gradients\n", comm.size(), what,
                   seconds * 1e3, static_cast<double>(bytes) / seconds / 1e9);
}

void measure_lanes(Communicator& comm, int64_t bytes, int64_t bucket_bytes) {
    CachingAllocator allocator(host_memory());
    Stream stream(1);
    core::Parameter parameter({.name = "weights", .shape = {bytes / 4}});
    parameter.add_use();
    std::vector<core::Parameter*> parameters = {&parameter};
    LaneReducer reducer(parameters, comm, allocator, stream, {.bucket_bytes = bucket_bytes});
    const LanePlan plan{.slots = comm.size(), .lanes = comm.size(), .ranks = comm.size()};
    const double seconds = best_of(7, comm, [&] {
        reducer.begin_step(plan);
        reducer.begin_slot(comm.rank());
        parameter.add_gradient(0, [](View) {});
        reducer.end_slot();
        reducer.finish();
    });
    print(comm, fmt::format("lanes, buckets of {} KiB", bucket_bytes >> 10), bytes, seconds);
}

int run(Communicator& comm, int64_t bytes) {
    for (const int64_t kib : {1024, 2048, 4096, 8192, 16384, 32768})
        measure_lanes(comm, bytes, kib << 10);
    std::vector<float> values(static_cast<size_t>(bytes / 4));
    const double seconds =
        best_of(7, comm, [&] { comm.all_reduce("whole", std::span(values), Reduce::max); });
    print(comm, "MPI_Iallreduce in 1 MiB pieces", bytes, seconds);
    return 0;
}

}  // namespace
}  // namespace plinth::parallel

int main(int argc, char** argv) {
    plinth::parallel::MpiWorld world;
    const int64_t mib = argc > 1 ? std::atoll(argv[1]) : 64;
    return world.run([&](plinth::parallel::Communicator& comm) {
        return plinth::parallel::run(comm, mib << 20);
    });
}
