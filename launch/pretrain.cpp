// SPDX-License-Identifier: Apache-2.0
#include "launch/pretrain.h"

#include "kernels/runtime/trace.h"
#include "launch/build.h"
#include "launch/config/load.h"
#include "launch/exit_codes.h"
#include "launch/preflight.h"
#include "launch/shard_check.h"

namespace plinth::launch {

int train(Training& run, core::models::Model& model) {
    run.start();
    while (!run.is_over()) {
        run.save_if_due();  // before looking: a start looks again at the step it goes on from
        run.evaluate_if_due();
        run.sample_if_due();
        if (run.is_finished()) break;

        const TraceRange range("step");
        for (const core::models::Phase& phase : model.phases()) {
            parallel::StepScalars scalars = run.step_scalars();
            run.run_micro_batches(phase, scalars);
            run.update(scalars);
            run.log();
        }
        run.check_replicas_if_due();
    }
    return run.finish();
}

int pretrain(const RunConfig& config, Session& session, bool dry_run) {
    if (dry_run) {
        print_plan(config, session);
        return exit_done;
    }
    parallel::Groups groups(session.world(), mesh_config(config.parallel));
    const auto model = language_model(config, groups);
    TrainingData data = TrainingData::open(config, session.files());
    session.lock_folders(config);
    if (config.data.verify)
        verify_shards(config.data, session.files(), session.ranks(),
                      [&session](const std::string& line) { session.say(line); });
    Training run(config, session, groups, *model, data, {.configuration = to_yaml(config)});
    return train(run, *model);
}

}  // namespace plinth::launch
