// SPDX-License-Identifier: Apache-2.0
// One flipped bit of one rank: the comparison of replicas finds it on each axis of the mesh, and
// the training loop asks for that comparison when it is due.
#include <gtest/gtest.h>

#include "launch/pretrain.h"
#include "launch/training.h"
#include "tests/support/expect_error.h"
#include "tests/support/prepared_text.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::expect_error;
using plinth::test::numbered_documents;
using plinth::test::prepare_texts;
using plinth::test::TemporaryFolder;

/// The last bit of the first element.
void flip(void* data) {
    *static_cast<unsigned char*>(data) ^= 1;
}

/// In the weights that this rank updates.
void flip_master(Engine& engine, const std::string& parameter) {
    for (const core::StateTensor& piece : engine.weights())
        if (piece.name == "model." + parameter) return flip(piece.data);
    FAIL(internal, "no {} here", parameter);
}

/// In the weights that operations read.
void flip_read(core::models::Model& model, const std::string& name) {
    for (core::Parameter* parameter : model.parameters().all()) {
        if (parameter->name() != name) continue;
        core::Tensor weights = parameter->acquire(parameter->read_as(DType::f32));
        parameter->release();
        return flip(weights.out().data);
    }
    FAIL(internal, "no {} here", name);
}

struct Flip {
    std::vector<std::string> layout;
    int ranks = 0;
    int culprit = 0;  ///< in the world, as in the group whose replica it spoils
    std::string parameter;
    bool is_read = false;  ///< what operations read, else what the optimizer updates
};

/// One step; then the bit flips, and the replicas are compared.
void run(const Flip& flip) {
    run_engine(tiny_config("gpt/tiny.yaml", flip.layout),
               {.ranks = flip.ranks, .steps = 1, .after_step = [&](EngineRank& rank) {
                    if (rank.session.world().rank() != flip.culprit) return;
                    if (flip.is_read)
                        flip_read(*rank.model, flip.parameter);
                    else
                        flip_master(rank.engine, flip.parameter);
                }});
}

TEST(Replicas, OneFlippedBitIsFoundOnEachAxis) {
    const std::string matrix = "blocks.1.mlp.up.weight", vector = "blocks.0.mlp_norm.bias";
    for (const Flip& flip : {
             Flip{{"parallel.data=3"}, 3, 2, matrix},
             Flip{{"parallel.data=3", "optimizer.offload=states"}, 3, 1, matrix, true},
             Flip{{"parallel.data=3", "parallel.zero=1"}, 3, 1, matrix, true},
             Flip{{"parallel.data=3", "parallel.zero=2"}, 3, 2, vector, true},
             Flip{{"parallel.tensor=2"}, 2, 1, vector},
             Flip{{"parallel.context=2"}, 2, 1, matrix},
             Flip{{"parallel.pipeline=2"}, 2, 1, "embedding.tokens.weight"},
         }) {
        SCOPED_TRACE(flip.layout.back() + " " + flip.parameter);
        expect_error(
            ErrorKind::ranks, [&] { run(flip); }, "step 1: ", flip.parameter,
            " is not the same on every rank: ", fmt::format("rank {} on ", flip.culprit));
    }
}

/// A run on two ranks that evaluates after each step.
class ReplicasOfARun : public testing::Test {
  protected:
    ReplicasOfARun() {
        prepare_texts(folder_.path(), "data", numbered_documents(60, "a small corpus"), 0.3);
    }

    /// A bit of rank 1 flips in the evaluation after the first step.
    void train(int64_t check_every) {
        const RunConfig config =
            tiny_config("gpt/tiny.yaml",
                        {fmt::format("data.sources=[{{path: {}}}]", folder_ / "data"),
                         fmt::format("run.folder={}", folder_ / fmt::format("run-{}", check_every)),
                         "run.metrics.tensorboard=false", "run.peak_flops=1e15", "train.steps=5",
                         "train.eval_every=1", "checkpoint.every=0", "parallel.data=2",
                         fmt::format("run.hash_check_every={}", check_every)});
        parallel::run_as_threads(2, [&](Communicator& world) {
            Session session(world, 1);
            parallel::Groups groups(world, mesh_config(config.parallel));
            const auto model = language_model(config, groups);
            TrainingData data = TrainingData::open(config, session.files());
            TrainingOptions options{.configuration = to_yaml(config)};
            options.measure = [&](const EvaluationRecord& record) {
                if (record.step == 1 && world.rank() == 1) flip_read(*model, "final_norm.weight");
            };
            Training run(config, session, groups, *model, data, std::move(options));
            EXPECT_EQ(launch::train(run, *model), 0);
        });
    }

    TemporaryFolder folder_;
};

TEST_F(ReplicasOfARun, AreComparedWhenThatIsDue) {
    for (const int64_t every : {2, 3})
        expect_error(
            ErrorKind::ranks, [&] { train(every); }, fmt::format("step {}: ", every),
            "final_norm.weight is not the same", "rank 1 on ");
    train(0);
    train(6);  // longer than the run
}

}  // namespace
}  // namespace plinth::launch::test
