// SPDX-License-Identifier: Apache-2.0
// What every key of checkpoints and of the process is called, means and may be.
#include "launch/config/run_config.h"

namespace plinth::launch {
namespace {

const Names<DeviceExchange> device_exchanges{{"auto", DeviceExchange::automatic},
                                             {"host", DeviceExchange::host},
                                             {"nccl", DeviceExchange::nccl}};

// What stages that only read a model share with training.
void declare_watch(Schema& schema, RunSection& run) {
    schema.seconds("run.timeout", &run.timeout,
                   {.doc = "A collective that takes longer ends the run with a report.",
                    .unit = "seconds",
                    .above = 0});
    schema.seconds(
        "run.hang_seconds", &run.hang_seconds,
        {.doc = "A rank that is dead, stopped, out of reach, without progress or in another "
                "collective is reported within this time and ends the run with exit code 162; 0 "
                "means that only run.timeout ends it.",
         .unit = "seconds",
         .min = 0});
}

}  // namespace

const Names<DeviceKind>& device_names() {
    static const Names<DeviceKind> names{
        {"auto", DeviceKind::automatic}, {"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}};
    return names;
}

void declare(Schema& schema, CheckpointSection& checkpoint) {
    schema.section("checkpoint", "When and where the run's state is saved.", Resume::free);
    schema.key("checkpoint.folder", &checkpoint.folder,
               {.doc = "Where checkpoints lie; empty means `checkpoints` in run.folder."});
    schema.key(
        "checkpoint.every", &checkpoint.every,
        {.doc = "Steps between checkpoints; 0 means only at the end.", .unit = "steps", .min = 0});
    schema.seconds("checkpoint.every_seconds", &checkpoint.every_seconds,
                   {.doc = "Time between checkpoints, besides `every`; 0 means no such limit.",
                    .unit = "seconds",
                    .min = 0});
    schema.key("checkpoint.keep", &checkpoint.keep,
               {.doc = "Newest checkpoints that are kept; 0 keeps all.", .min = 0});
    schema.key("checkpoint.keep_every", &checkpoint.keep_every,
               {.doc = "Checkpoints whose step this divides are kept besides, for good; 0 means "
                       "none. Of use where it is a multiple of `every`.",
                .unit = "steps",
                .min = 0});
    schema.key("checkpoint.verify", &checkpoint.verify,
               {.doc = "Before an older checkpoint is removed, read a kept one back, every byte, "
                       "beside the training; false: only its manifest and indexes."});
    schema.key("checkpoint.async", &checkpoint.async,
               {.doc = "Write in the background while training goes on."});
    schema.key("checkpoint.init", &checkpoint.init,
               {.doc = "Start a new run from this checkpoint's weights; empty means from fresh "
                       "weights. A resume does not read it."});
}

void declare(Schema& schema, RunSection& run) {
    schema.section("run", "The process: where it writes, how long it lives, what it reports.",
                   Resume::free);
    schema.key("run.folder", &run.folder, {.doc = "Folder of the run's checkpoints and metrics."});
    schema.key(
        "run.name", &run.name,
        {.doc =
             "Name in the line that begins a run's log; empty means the last part of run.folder."});
    schema.seconds("run.time_limit", &run.time_limit,
                   {.doc = "Save and exit before this much time has passed; 0 means no limit.",
                    .unit = "seconds",
                    .min = 0});
    schema.choice(
        "run.device", &run.device, device_names(),
        {.doc = "Where ranks compute: `auto` on a GPU where the machine has one, else on the "
                "CPU. The ranks of a machine take its GPUs in turn."});
    schema.choice(
        "run.device_exchange", &run.device_exchange, device_exchanges,
        {.doc = "How GPUs exchange: `host` by way of host memory and MPI; `nccl` directly, which "
                "needs a GPU for each rank and has not been run on several GPUs; `auto` is `host` "
                "until that has been done."});
    schema.key("run.reproducible", &run.reproducible,
               {.doc = "On a GPU use only kernels with one result for one input, so that a run "
                       "repeats bit for bit; costs speed. The CPU always does."});
    schema.key(
        "run.graphs", &run.graphs,
        {.doc = "Capture the work of each kind of micro-batch, and of the update, once, and "
                "launch it again from then on: on a GPU as CUDA graphs, which have not been "
                "run on a card yet. Of several ranks for data ranks alone, whose lanes "
                "(train.lanes) have several slots, with ZeRO 1 at most; without offload, and "
                "with fp32 on the wire. Changes no bit."});
    schema.key("run.algorithm_cache", &run.algorithm_cache,
               {.doc = "Folder of the files that keep which algorithm each matrix product on a GPU "
                       "took, by GPU and library version, so that a later run times none again; "
                       "empty means `plinth` in the user's cache folder (`$XDG_CACHE_HOME`, else "
                       "`~/.cache`); `off` keeps none."});
    schema.key("run.threads", &run.threads,
               {.doc = "CPU threads of one rank; 0 means the cores that it may use.",
                .min = 0,
                .max = 1024});
    declare_watch(schema, run);
    schema.key("run.hash_check_every", &run.hash_check_every,
               {.doc = "Steps between comparisons of the replicas' parameters; 0 means never.",
                .unit = "steps",
                .min = 0});
    schema.key("run.log_every", &run.log_every,
               {.doc = "Steps between progress lines; metrics files get every step.",
                .unit = "steps",
                .min = 1});
    schema.key("run.metrics.jsonl", &run.metrics.jsonl,
               {.doc = "Write metrics.jsonl in run.folder."});
    schema.key("run.metrics.tensorboard", &run.metrics.tensorboard,
               {.doc = "Write TensorBoard event files in run.folder."});
    schema.key(
        "run.peak_flops", &run.peak_flops,
        {.doc = "One rank's peak for the utilisation figure; 0 means the data sheet's for a known "
                "GPU, else that of a short matrix product at the start.",
         .unit = "FLOP/s",
         .min = 0});
}

void declare_for_reading(Schema& schema, RunSection& run) {
    schema.section("run", "How ranks are watched.", Resume::free);
    declare_watch(schema, run);
}

}  // namespace plinth::launch
