// SPDX-License-Identifier: Apache-2.0
// One rank of a distributed test: mpirun -n N distributed_ranks CASE

#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <thread>

#include "parallel/comm/mpi.h"
#include "tests/distributed/communicator_body.h"
#include "tests/distributed/lanes_body.h"
#include "tests/support/fake_device.h"

namespace plinth::test {
namespace {

/// Rank 1 never comes to the second call; the others must end by themselves and name it.
void hang(Communicator& comm) {
    comm.set_time_limit(std::chrono::milliseconds(500));
    comm.barrier("first");
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(100));
    comm.barrier("second");
}

/// Rank 1 waits for a message that nobody sends; the others can ask it where it is.
void lost_message(Communicator& comm) {
    if (comm.rank() != 1) {
        comm.set_time_limit(std::chrono::milliseconds(500));
        comm.barrier("without rank 1");
    }
    std::byte byte{};
    comm.receive("never sent", Bytes(&byte, 1), 0);
}

void error_on_one_rank(Communicator& comm) {
    if (comm.rank() == 1) FAIL(data, "corpus.bin: bad header");
    comm.barrier("for ever");
}

void no_memory_on_one_rank(Communicator& comm) {
    if (comm.rank() + 1 == comm.size()) throw std::bad_alloc();
    comm.barrier("for ever");
}

void device_communicator(Communicator& comm) {
    WithFakeDevice device(comm);
    DeviceBuffers memory(*device);
    check_communicator_in({comm, memory});
}

const std::map<std::string, std::function<void(Communicator&)>> cases = {
    {"communicator", check_communicator},
    {"device_communicator", device_communicator},
    {"lanes", check_all_lanes},
    {"hang", hang},
    {"lost_message", lost_message},
    {"error_on_one_rank", error_on_one_rank},
    {"no_memory_on_one_rank", no_memory_on_one_rank},
};

int run(int argc, char** argv) {
    parallel::MpiWorld world;
    return world.run([&](Communicator& comm) {
        REQUIRE(config, argc == 3, "usage: mpirun -n N distributed_ranks CASE N");
        const auto found = cases.find(argv[1]);
        REQUIRE(config, found != cases.end(), "{}: no such case", argv[1]);
        CHECK(comm.size() == std::stoi(argv[2]), "{} ranks", comm.size());
        CHECK(world.local_size() == comm.size() && world.local_rank() == comm.rank(),
              "local rank {} of {}", world.local_rank(), world.local_size());
        found->second(comm);
        return 0;
    });
}

}  // namespace
}  // namespace plinth::test

int main(int argc, char** argv) {
    return plinth::test::run(argc, argv);
}
