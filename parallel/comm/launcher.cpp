// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/launcher.h"

#include <cstdlib>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

int number(const Environment& environment, const char* name) {
    const char* text = environment(name);
    return text ? std::atoi(text) : 0;
}

}  // namespace

bool is_launched(const Environment& environment) {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"})
        if (environment(name)) return true;
    return false;
}

int launched_rank(const Environment& environment) {
    if (!is_launched(environment)) return 0;
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
        if (environment(name)) return number(environment, name);
    return 0;
}

int launched_ranks(const Environment& environment) {
    if (!is_launched(environment)) return 1;
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
        if (const int ranks = number(environment, name); ranks > 0) return ranks;
    return 1;
}

void check_launch(int mpi_size, const Environment& environment) {
    if (mpi_size > 1) return;
    // mpirun -n 1 inside a larger allocation is meant so.
    if (number(environment, "OMPI_COMM_WORLD_SIZE") == 1) return;
    const bool is_step = environment("SLURM_STEP_NUM_TASKS") != nullptr;
    const int slurm_tasks = number(environment, is_step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS");
    REQUIRE(config, slurm_tasks <= 1,
            "Slurm started {} tasks (SLURM_NTASKS), but MPI sees a world of 1: start with 'srun "
            "--mpi=pmix' ('srun --mpi=list' shows what this cluster has) or with mpirun",
            slurm_tasks);
    const int pmi_tasks = number(environment, "PMI_SIZE");
    REQUIRE(
        config, pmi_tasks <= 1,
        "a launcher started {} tasks (PMI_SIZE), but MPI sees a world of 1: it belongs to another "
        "MPI; start with the mpirun of the MPI that plinth was built with",
        pmi_tasks);
}

}  // namespace plinth::parallel
