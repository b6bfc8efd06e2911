// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/replica_check.h"

#include <gtest/gtest.h>

#include "core/optim/parameter_storage.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::Communicator;

/// Equal parameters on 4 ranks; `change` may alter those of one.
void compare(const std::function<void(int rank, float* weights)>& change) {
    parallel::run_as_threads(4, [&](Communicator& comm) {
        CachingAllocator allocator(host_memory());
        core::Parameter norm({.name = "norm.weight", .shape = {3}});
        core::Parameter matrix({.name = "block.weight", .shape = {5, 7}});
        std::vector<core::Parameter*> parameters = {&norm, &matrix};
        auto storage = core::optim::materialize(parameters, allocator);
        change(comm.rank(), matrix.master().data<float>());
        parallel::check_replicas(storage.state(""), comm, 42);
    });
}

TEST(ReplicaCheck, EqualReplicasPass) {
    compare([](int, float*) {});
    compare([](int, float* weights) { weights[3] = 1.5f; });
}

TEST(ReplicaCheck, AFlippedBitNamesRankTensorAndStep) {
    for (int wrong : {0, 2})
        expect_error(
            ErrorKind::ranks,
            [&] {
                compare([&](int rank, float* weights) {
                    if (rank == wrong) reinterpret_cast<uint32_t*>(weights)[34] ^= 1u;
                });
            },
            "step 42", "block.weight", fmt::format("rank {} on thread {} has", wrong, wrong));
}

}  // namespace
}  // namespace plinth::test
