// SPDX-License-Identifier: Apache-2.0
// What a faulty layout would do, shown to the comparisons of `plinth verify`: first the faults of
// sums over ranks, then those of an optimizer that works on shards.
#include <gtest/gtest.h>

#include <cmath>

#include "launch/verify.h"
#include "tests/support/expect_error.h"
#include "tests/unit/launch/changed_gradients.h"
#include "tests/unit/launch/step_words.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;

constexpr int64_t steps = 4;

/// Over data, tensor, context ranks.
Layout over(RunConfig config, int64_t data, int64_t tensor, int64_t context = 1) {
    config.parallel.data = data;
    config.parallel.tensor = tensor;
    config.parallel.context = context;
    return layout_of(config, static_cast<int>(data * tensor * context));
}

void multiply(View values, float factor) {
    for (int64_t i = 0; i < values.elements(); ++i)
        values.as<float>()[i] *= factor;
}

/// On the received bytes of calls whose label ends so.
AlteredGroup::Alter on_labels(std::string begin, std::string end, AlteredGroup::Alter alter) {
    return [=](const std::string& label, const std::vector<parallel::Bytes>& received) {
        if (label.starts_with(begin) && label.ends_with(end)) alter(label, received);
    };
}

LayoutDoubles altered(const AlteredGroup::Alter& alter) {
    return {
        .world = [=](parallel::Communicator& world) { return AlteredGroup::world(world, alter); }};
}

/// Not only seen, but by its values: replicas still agree.
void expect_seen(const LayoutVerdict& verdict, const std::string& what) {
    EXPECT_FALSE(verdict.agrees) << what << ": " << verdict.text;
    EXPECT_EQ(verdict.text.find("two ranks hold"), std::string::npos) << what << verdict.text;
    EXPECT_NE(verdict.text.find(' '), std::string::npos) << what;
}

/// The gradient norm's reduction done once more over all ranks.
LayoutDoubles norm_reduced_twice(const Layout& layout) {
    return {.world = [&layout](parallel::Communicator& world) {
        return std::make_unique<TwiceReducedGroup>(
            world, step_words_label, words_of_squares(step_words(layout.config, layout.ranks)));
    }};
}

/// The five faults of sums over ranks in one layout. `compare` is what `plinth verify` does for it.
struct Faults {
    Layout layout;
    AlteredGroup::Alter dropped, swapped;
    std::function<LayoutVerdict(const LayoutRecord&)> compare;
    /// Where the head uses the table of tokens.
    std::function<bool(int rank, int use)> is_head = [](int, int use) { return use == 1; };

    void expect_all_seen() {
        const std::string& of = layout.name;
        const LayoutVerdict sound = compare(train_layout(layout, steps));
        EXPECT_TRUE(sound.agrees) << of << ": " << sound.text;
        const auto expect = [&](const LayoutDoubles& doubles, const std::string& what) {
            expect_seen(compare(train_layout(layout, steps, doubles)), of + ", " + what);
        };
        expect(altered(dropped), "a reduction dropped");
        if (swapped) expect(altered(swapped), "two ranks of a group exchanged");
        ChangedGradients scaled([](int rank, const std::string&, int, View dweight) {
            if (rank == 1) multiply(dweight, 1.0f + 1e-4f);
        });
        expect(scaled.doubles(), "the loss of one rank scaled");
        ChangedGradients untied([&](int rank, const std::string& name, int use, View dweight) {
            if (name == "embedding.tokens.weight" && is_head(rank, use)) multiply(dweight, 0.0f);
        });
        expect(untied.doubles(), "the gradient of the tied head forgotten");
        expect(norm_reduced_twice(layout), "the squares of the norm reduced twice");
    }
};

TEST(VerifyMutants, DataParallelFaultsAreSeenInBits) {
    const LayoutRecord one = train_layout(over(tiny_gpt(), 1, 1), steps);
    Faults{.layout = over(tiny_gpt(), 3, 1),
           .dropped = dropping("gradients, bucket"),
           .swapped = swapping("gradients, bucket"),
           .compare = [&](const LayoutRecord& record) { return compare_bits(record, one); }}
        .expect_all_seen();
}

TEST(VerifyMutants, ZeroFaultsAreSeenInBits) {
    const LayoutRecord one = train_layout(over(tiny_gpt(), 1, 1), steps);
    const auto compare = [&](const LayoutRecord& record) { return compare_bits(record, one); };
    for (const int64_t zero : {1, 2, 3}) {
        RunConfig config = tiny_gpt();
        config.parallel.zero = zero;
        const Layout three = over(config, 3, 1);
        Faults{.layout = three,
               .dropped = dropping("gradients, bucket"),
               .swapped = swapping("gradients, bucket"),
               .compare = compare}
            .expect_all_seen();
        for (const auto& alter : {dropping("weights, bucket"), swapping("weights, bucket")})
            expect_seen(compare(train_layout(three, steps, altered(alter))),
                        three.name + ", gathered weights");
    }
}

TEST(VerifyMutants, PipelineFaultsAreSeenInBits) {
    const LayoutRecord one = train_layout(over(tiny_gpt(), 1, 1), steps);
    RunConfig config = tiny_gpt();
    config.parallel.pipeline = 2;
    config.parallel.data = 3;
    const Layout six = layout_of(config, 6);
    const auto compare = [&](const LayoutRecord& record) { return compare_bits(record, one); };
    // The last stage's table serves the head alone; ranks 3 to 5 are there.
    Faults{.layout = six,
           .dropped = dropping("gradients, bucket"),
           .swapped = swapping("gradients, bucket"),
           .compare = compare,
           .is_head = [](int rank, int) { return rank >= 3; }}
        .expect_all_seen();
    for (const char* message : {"activation of micro-batch", "gradient of micro-batch"})
        expect_seen(compare(train_layout(six, steps, altered(dropping(message)))),
                    six.name + ", " + message);
}

void expect_tensor_faults_seen(const RunConfig& config, const Bounds& bounds) {
    const LayoutRecord one = train_layout(over(config, 1, 1), steps);
    Faults{
        .layout = over(config, 1, 4),
        .dropped = on_labels("blocks.1.attention.output", " sum", dropping("")),
        .swapped = on_labels("blocks.1.mlp.up", " tokens", swapping("")),
        .compare = [&](const LayoutRecord& record) { return compare_within(record, one, bounds); }}
        .expect_all_seen();
}

TEST(VerifyMutants, TensorParallelFaultsAreSeenWithinRounding) {
    expect_tensor_faults_seen(tiny_gpt(), fp32_tolerance);
}

TEST(VerifyMutants, TensorParallelFaultsAreSeenBesideRoundedMoments) {
    RunConfig config = tiny_gpt();
    config.optimizer.moments = ComputeType::bf16;
    expect_tensor_faults_seen(config, rounded_moments_bounds);
}

TEST(VerifyMutants, ContextParallelFaultsAreSeenWithinRounding) {
    RunConfig config = tiny_gpt();
    config.model.max_positions = config.data.sequence_length = 32;
    const LayoutRecord one = train_layout(over(config, 1, 1), steps);
    const auto compare = [&](const LayoutRecord& record) {
        return compare_within(record, one, fp32_tolerance);
    };
    const Layout four = over(config, 1, 1, 4);
    // In a ring all comes from one neighbour: there are no two to exchange.
    Faults{.layout = four,
           .dropped = on_labels("blocks.1.attention", " key gradients", dropping("")),
           .swapped = {},
           .compare = compare}
        .expect_all_seen();
    const kernels::StepWords places = step_words(four.config, four.ranks);
    using kernels::StepWords;
    for (const auto& alter :
         {dropping("gradients of other tokens"), swapping("gradients of other tokens"),
          dropping_of_losses(places, {StepWords::sum, StepWords::cross_entropy})})
        EXPECT_FALSE(compare(train_layout(four, steps, altered(alter))).agrees);
    // All that others say: of their part of the tokens nobody has given a loss.
    expect_error(
        ErrorKind::internal,
        [&] { train_layout(four, steps, altered(dropping(step_words_label))); },
        "a micro-batch's loss was given by no rank");
}

/// What the stages of a pipeline would do that keep their own use of a tied table.
TEST(VerifyMutants, ATotalThatStagesDoNotExchangeIsSeen) {
    RunConfig config = tiny_gpt();
    const LayoutRecord one = train_layout(over(config, 1, 1), steps);
    config.parallel.pipeline = 2;
    const Layout stages = layout_of(config, 2);
    EXPECT_TRUE(compare_bits(train_layout(stages, steps), one).agrees);
    const LayoutVerdict verdict = compare_bits(
        train_layout(stages, steps, altered(dropping("gradient of embedding.tokens.weight"))), one);
    EXPECT_FALSE(verdict.agrees);
    EXPECT_NE(verdict.text.find("embedding.tokens.weight"), std::string::npos) << verdict.text;
}

// --- shards of the optimizer's state
// --------------------------------------------------------------

const std::string shared = "blocks.0.mlp.up.weight";

/// The values of a state tensor that a rank holds one piece of.
std::span<float> piece_of(Engine& engine, const std::string& name) {
    for (const core::StateTensor& piece : engine.state())
        if (piece.name == name)
            return {static_cast<float*>(piece.data), static_cast<size_t>(piece.shard.elements())};
    ADD_FAILURE() << name << " is not there";
    return {};
}

/// Runs on one rank after each update of a weight, with its values before and after.
LayoutDoubles on_updates(
    int only_rank, std::function<void(std::span<const float> before, std::span<float>)> then) {
    const auto before = std::make_shared<std::vector<float>>();
    return {.after_gradients =
                [=](int rank, Engine& engine) {
                    if (rank != only_rank) return;
                    const std::span<float> values = piece_of(engine, "model." + shared);
                    before->assign(values.begin(), values.end());
                },
            .after_update =
                [=](int rank, Engine& engine) {
                    if (rank == only_rank) then(*before, piece_of(engine, "model." + shared));
                    engine.weights_changed();
                }};
}

class ShardMutants : public ::testing::Test {
  protected:
    ShardMutants() : config_(tiny_gpt()) {
        config_.optimizer.schedule = ScheduleKind::constant;
        one_ = train_layout(over(config_, 1, 1), steps);
    }
    LayoutVerdict verdict(const LayoutDoubles& doubles) {
        return compare_within(train_layout(over(config_, 1, 2), steps, doubles), one_,
                              fp32_tolerance);
    }
    /// By the comparison of `what`, which names the tensor.
    void expect_seen_in(const LayoutVerdict& verdict, const std::string& what,
                        const std::string& prefix) {
        EXPECT_FALSE(verdict.agrees) << verdict.text;
        const size_t at = verdict.text.find(" " + what + " ");
        ASSERT_NE(at, std::string::npos) << verdict.text;
        const std::string part = verdict.text.substr(at, verdict.text.find_first_of(",(", at) - at);
        EXPECT_NE(part.find("in " + prefix + shared), std::string::npos) << verdict.text;
    }

    RunConfig config_;
    LayoutRecord one_;
};

TEST_F(ShardMutants, AnUpdateScaledOnOneShardIsSeen) {
    EXPECT_TRUE(verdict({}).agrees) << verdict({}).text;
    const auto scaled = on_updates(1, [](std::span<const float> before, std::span<float> after) {
        for (size_t i = 0; i < after.size(); ++i)
            after[i] = before[i] + 1.001f * (after[i] - before[i]);
    });
    expect_seen_in(verdict(scaled), "change", "model.");
}

TEST_F(ShardMutants, DecayLeftOutOnOneShardIsSeen) {
    const auto decay = static_cast<float>(config_.optimizer.lr * config_.optimizer.weight_decay);
    const auto without =
        on_updates(1, [decay](std::span<const float> before, std::span<float> after) {
            for (size_t i = 0; i < after.size(); ++i)
                after[i] += decay * before[i];
        });
    expect_seen_in(verdict(without), "change", "model.");
}

TEST_F(ShardMutants, MomentsMixedUpOnOneShardAreSeen) {
    for (const char* moment : {"optimizer.m.", "optimizer.v."}) {
        const LayoutDoubles mixed{.after_update = [=](int rank, Engine& engine) {
            if (rank != 1 || engine.update_count() != steps) return;
            const std::span<float> values = piece_of(engine, moment + shared);
            const auto half = static_cast<std::ptrdiff_t>(values.size() / 2);
            std::swap_ranges(values.begin(), values.begin() + half, values.begin() + half);
        }};
        expect_seen_in(verdict(mixed),
                       moment == std::string("optimizer.m.") ? "mean" : "mean square", moment);
    }
}

/// No gradient, no reason to differ: decay alone must have equal bits.
TEST_F(ShardMutants, AWeightWithoutAGradientIsComparedInBits) {
    LayoutRecord other = one_;
    const std::string name = "optimizer.v." + shared;
    other.state[name].values[5] = one_.state[name].values[5] = 0.0f;
    EXPECT_TRUE(compare_within(other, one_, fp32_tolerance).agrees);
    float& weight = other.state["model." + shared].values[5];
    weight = std::nextafter(weight, 1.0f);
    expect_seen_in(compare_within(other, one_, fp32_tolerance), "change", "model.");
    // With a gradient the last bit is rounding.
    other.state[name].values[5] = one_.state[name].values[5] = 1e-12f;
    EXPECT_TRUE(compare_within(other, one_, fp32_tolerance).agrees);
}

TEST_F(ShardMutants, OtherFirstWeightsAreSeen) {
    LayoutRecord other = one_;
    float& weight = other.start["model." + shared].values[7];
    weight = std::nextafter(weight, 1.0f);
    for (const LayoutVerdict& verdict :
         {compare_bits(other, one_), compare_within(other, one_, fp32_tolerance)}) {
        EXPECT_FALSE(verdict.agrees);
        EXPECT_NE(verdict.text.find("before the first step model." + shared), std::string::npos)
            << verdict.text;
    }
}

TEST_F(ShardMutants, ValuesThatAreNoNumbersAreSeen) {
    for (const std::string& name : {"model." + shared, "optimizer.m." + shared}) {
        LayoutRecord other = one_;
        other.state[name].values[0] = std::nanf("");
        EXPECT_FALSE(compare_within(other, one_, fp32_tolerance).agrees) << name;
    }
    LayoutRecord other = one_;
    other.losses.back() = std::nan("");
    EXPECT_FALSE(compare_within(other, one_, fp32_tolerance).agrees);
}

}  // namespace
}  // namespace plinth::test
