// SPDX-License-Identifier: Apache-2.0
// Held-out loss: the same for every layout, within rounding where tokens are shared.
#include "launch/evaluator.h"

#include <gtest/gtest.h>

#include <mutex>

#include "launch/build.h"
#include "parallel/comm/threads.h"
#include "tests/support/forwarding_group.h"
#include "tests/support/prepared_text.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;
using parallel::Communicator;

/// Sums of losses that stay those of this rank: the mutant of an evaluator that does not ask the
/// ranks with which it shares tokens.
class UnsharedLosses final : public ForwardingGroup {
  public:
    using ForwardingGroup::ForwardingGroup;

  protected:
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        if (!call.label.starts_with("loss")) return pass_on(call, sends, receives);
        // As if the others had zeros: the first half of a sum brings nothing, the second what
        // this rank has given to the first.
        const bool is_second = call.label == "losses" && !given_.empty();
        for (const Incoming& in : receives) {
            std::fill(in.bytes.begin(), in.bytes.end(), std::byte{});
            if (is_second) std::ranges::copy(given_.at(in.peer), in.bytes.begin());
        }
        given_.clear();
        if (call.label == "losses" && !is_second)
            for (const Outgoing& out : sends)
                given_[out.peer] = {out.bytes.begin(), out.bytes.end()};
        return std::make_unique<Forwarded>();
    }

  private:
    std::map<int, std::vector<std::byte>> given_;  ///< to the first half of a sum, by peer
};

using Between = std::function<std::unique_ptr<Communicator>(Communicator&)>;

class HeldOutLoss : public testing::Test {
  protected:
    HeldOutLoss() {
        prepare_texts(folder_.path(), "data", numbered_documents(60, "those that are held out"),
                      0.5);
    }

    RunConfig over_data(RunConfig config) const {
        config.model.vocab_size = 257;
        config.data.sequence_length = config.model.max_positions = 64;
        config.data.sources = {{.path = path("data"), .weight = 1, .name = ""}};
        config.train.eval_every = 1;
        config.train.eval_batches = 3;
        return config;
    }

    /// The same on all ranks.
    static double evaluate(const RunConfig& config, const Between& between = {}) {
        const ParallelSection& p = config.parallel;
        const auto ranks = static_cast<int>(p.data * p.pipeline * p.context * p.tensor);
        std::mutex mutex;
        std::vector<double> losses;
        parallel::run_as_threads(ranks, [&](Communicator& sound) {
            const auto made = between ? between(sound) : nullptr;
            Communicator& world = made ? *made : sound;
            Session session(world, 1);
            parallel::Groups groups(world, mesh_config(p));
            const auto model = language_model(config, groups);
            Engine engine(config, session, groups, *model);
            engine.initialize(5);
            const TrainingData data = TrainingData::open(config, core::io::posix());
            Evaluator evaluator(config, session, groups, *model, data);
            const EvaluationRecord record = evaluator.evaluate(1, 6, {});
            EXPECT_EQ(record.held_out_samples, 3 * config.train.micro_batch);
            EXPECT_EQ(record.held_out_total, data.held_out_samples());
            EXPECT_LT(record.held_out_samples, record.held_out_total) << "a part of them";
            const std::lock_guard lock(mutex);
            losses.push_back(record.loss);
        });
        for (const double loss : losses)
            EXPECT_EQ(loss, losses.front());
        return losses.front();
    }

    static RunConfig over(RunConfig config, int64_t data, int64_t pipeline, int64_t context,
                          int64_t tensor) {
        config.parallel.data = data;
        config.parallel.pipeline = pipeline;
        config.parallel.context = context;
        config.parallel.tensor = tensor;
        return config;
    }

    std::string path(const std::string& name) const { return core::io::join(folder_.path(), name); }

    TemporaryFolder folder_;
};

constexpr double rounding = 1e-6;

TEST_F(HeldOutLoss, OverTensorAndContextRanksIsThatOfOneRank) {
    for (const RunConfig& tiny : {tiny_gpt(), tiny_llama(), tiny_bloom()}) {
        const RunConfig config = over_data(tiny);
        const double one = evaluate(over(config, 1, 1, 1, 1));
        EXPECT_GT(one, 1.0);
        EXPECT_NEAR(evaluate(over(config, 1, 1, 1, 2)) / one, 1.0, rounding);
        EXPECT_NEAR(evaluate(over(config, 1, 1, 4, 1)) / one, 1.0, rounding);
        EXPECT_NEAR(evaluate(over(config, 1, 1, 2, 2)) / one, 1.0, rounding);
        const double two = evaluate(over(config, 1, 1, 2, 1));
        EXPECT_NEAR(two / one, 1.0, rounding);
        EXPECT_EQ(evaluate(over(config, 2, 1, 2, 1)), two);
        EXPECT_EQ(evaluate(over(config, 1, 2, 2, 1)), two);
        EXPECT_EQ(evaluate(over(config, 2, 2, 1, 1)), one);
    }
}

TEST_F(HeldOutLoss, TheMutantOfLossesThatAreNotSharedShows) {
    const RunConfig config = over_data(tiny_gpt());
    const double one = evaluate(over(config, 1, 1, 1, 1));
    const auto ask_nobody = [](Communicator& sound) {
        return std::make_unique<UnsharedLosses>(sound);
    };
    const double alone = evaluate(over(config, 1, 1, 2, 1), ask_nobody);
    // A mean over the tokens of rank 0: not far from that over all.
    EXPECT_NEAR(alone / one, 1.0, 0.2);
    EXPECT_GT(std::abs(alone / one - 1.0), 10 * rounding);
}

}  // namespace
}  // namespace plinth::test
