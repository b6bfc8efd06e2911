// SPDX-License-Identifier: Apache-2.0
// One rank's gradient of one micro-batch is not a number, whatever that rank shares with others:
// all ranks leave the step out.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "launch/build.h"
#include "parallel/mesh.h"
#include "tests/unit/launch/changed_gradients.h"
#include "tests/unit/launch/step_words.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;
using parallel::Axis;

constexpr int64_t steps = 4;
constexpr int spoilt_step = 1;

struct Divided {
    int64_t data = 1, tensor = 1, context = 1, pipeline = 1, zero = 0;

    Layout layout() const {
        RunConfig config = tiny_gpt();
        config.model.max_positions = config.data.sequence_length = 32;
        config.parallel.data = data;
        config.parallel.tensor = tensor;
        config.parallel.context = context;
        config.parallel.pipeline = pipeline;
        config.parallel.zero = zero;
        const int64_t ranks = data * tensor * context * pipeline;
        const auto problem = validate_world(config, ranks);
        CHECK(!problem, "{}: {}", problem->key, problem->message);
        return layout_of(config, static_cast<int>(ranks));
    }
};

const std::vector<Divided> layouts = {
    {.data = 2},
    {.data = 3, .zero = 1},
    {.data = 3, .zero = 2},
    {.data = 3, .zero = 3},
    {.tensor = 2},
    {.tensor = 4},
    {.context = 2},
    {.pipeline = 2},
    {.data = 2, .tensor = 2, .zero = 3},
    {.data = 2, .context = 2, .zero = 2},
    {.tensor = 2, .context = 2},
    {.data = 2, .pipeline = 2, .zero = 1},
    {.tensor = 2, .context = 2, .pipeline = 2},
};

/// Bits of a rank's state, piece by piece.
std::vector<uint32_t> bits_of(Engine& engine) {
    std::vector<uint32_t> bits;
    for (const core::StateTensor& piece : engine.state())
        for (int64_t i = 0; i < piece.shard.elements(); ++i)
            bits.push_back(std::bit_cast<uint32_t>(piece.value(i)));
    return bits;
}

/// A training in which a number in the gradient of a block's weight is spoilt in the second step,
/// on one rank (all: -1), and that looks at what each rank makes of it.
class SpoiltTraining {
  public:
    explicit SpoiltTraining(int only_rank)
        : gradients_([this, only_rank](int rank, const std::string& name, int, View dweight) {
              Seen& seen = seen_[static_cast<size_t>(rank)];
              if ((only_rank >= 0 && rank != only_rank) || seen.step != spoilt_step) return;
              if (!name.ends_with("mlp.up.weight") || seen.is_spoilt) return;  // one owner's
              *dweight.as<float>() = std::numeric_limits<float>::quiet_NaN();
              seen.is_spoilt = true;
          }) {}

    LayoutRecord train(
        const Layout& layout,
        std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator&)> world =
            {}) {
        LayoutDoubles doubles = gradients_.doubles();
        doubles.world = std::move(world);
        doubles.after_gradients = [this](int rank, Engine& engine) {
            Seen& seen = seen_[static_cast<size_t>(rank)];
            seen.before = bits_of(engine);
            seen.updates = engine.update_count();
        };
        doubles.after_update = [this](int rank, Engine& engine) {
            Seen& seen = seen_[static_cast<size_t>(rank)];
            const int64_t updates = engine.update_count() - seen.updates;
            const bool is_skipped = updates == 0 && bits_of(engine) == seen.before;
            CHECK(is_skipped == (seen.step == spoilt_step),
                  "rank {}: step {} made {} updates, and its state is {}", rank, seen.step, updates,
                  is_skipped ? "unchanged" : "changed");
            engine.check_replicas(seen.step);
            ++seen.step;
        };
        return train_layout(layout, steps, doubles);
    }
    bool spoilt(int rank) const { return seen_[static_cast<size_t>(rank)].is_spoilt; }

  private:
    /// Of a rank; each is touched by its own thread.
    struct Seen {
        int step = 0;
        bool is_spoilt = false;
        int64_t updates = 0;
        std::vector<uint32_t> before;
    };
    std::array<Seen, 8> seen_;
    ChangedGradients gradients_;
};

/// What differs from a training in which every rank sees the spoilt gradient itself; "" if nothing.
std::string fault_of(
    const Layout& layout, int spoilt_rank,
    std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator&)> world = {}) {
    const LayoutRecord everywhere = SpoiltTraining(-1).train(layout);
    SpoiltTraining training(spoilt_rank);
    LayoutRecord one;
    try {
        one = training.train(layout, std::move(world));
    } catch (const Error& error) {
        return error.what();
    }
    if (!training.spoilt(spoilt_rank)) return "nothing was spoilt";
    for (size_t step = 0; step < steps; ++step) {
        if (!std::isfinite(one.losses[step])) return fmt::format("loss of step {}", step);
        if (one.losses[step] != everywhere.losses[step]) return fmt::format("loss of {}", step);
        if (std::isnan(one.norms[step]) != (step == spoilt_step))
            return fmt::format("norm of step {} is {}", step, one.norms[step]);
    }
    for (const auto& [name, tensor] : everywhere.state) {
        const LayoutRecord::Tensor& other = one.state.at(name);
        if (!other.problem.empty()) return name + ": " + other.problem;
        if (other.values != tensor.values) return name;
    }
    return "";
}

TEST(NonFinite, OneRanksGradientSkipsTheStepOnAll) {
    for (const Divided& divided : layouts) {
        const Layout layout = divided.layout();
        for (int rank = 0; rank < layout.ranks; ++rank)
            EXPECT_EQ(fault_of(layout, rank), "") << layout.name << ", rank " << rank;
    }
}

/// The mutant: a norm to which the ranks that differ along one axis give nothing.
TEST(NonFinite, ANormThatIsNotReducedOverAnAxisIsSeen) {
    for (const Divided& divided : layouts) {
        Layout layout = divided.layout();
        layout.config.optimizer.clip = 0;  // or ranks that know other norms part before that
        const kernels::StepWords places = step_words(layout.config, layout.ranks);
        const TwiceReducedGroup::Part squares = words_of_squares(places);
        const parallel::Mesh mesh(layout.ranks, mesh_config(layout.config.parallel));
        for (const Axis axis : parallel::axes) {
            if (mesh.size(axis) == 1) continue;
            const auto blind = [&](parallel::Communicator& world) {
                const int me = world.rank(), ranks = world.size();
                return std::make_unique<AlteredGroup>(
                    world,
                    [=](const std::string& label, const std::vector<parallel::Bytes>& received) {
                        if (label != step_words_label) return;
                        for (size_t i = 0; i < received.size(); ++i) {
                            const int from = (me + ranks - 1 - static_cast<int>(i)) % ranks;
                            if (mesh.coordinate(from, axis) != mesh.coordinate(me, axis))
                                std::ranges::fill(step_words_in(received[i], places)
                                                      .subspan(squares.begin, squares.count),
                                                  0);
                        }
                    });
            };
            // The rank that does not hear of the number makes the step.
            const std::string fault = fault_of(layout, layout.ranks - 1, blind);
            EXPECT_NE(fault.find(": step 1 made 1 updates"), std::string::npos)
                << layout.name << ", " << parallel::key_of(axis) << ": " << fault;
        }
    }
}

}  // namespace
}  // namespace plinth::test
