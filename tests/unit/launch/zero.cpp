// SPDX-License-Identifier: Apache-2.0
// ZeRO stages change no bit: loss, norm, weights and moments of training steps over thread ranks,
// checkpoints from any stage and number of ranks to any other, and mutants that break it.
#include <gtest/gtest.h>

#include "tests/support/forwarding_group.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"
#include "tests/unit/launch/step_words.h"

namespace plinth::launch::test {
namespace {

using parallel::Bytes;

struct Case {
    const char* name;
    const char* file;
    std::vector<std::string> overrides;
    int highest_zero = 3;
};

RunConfig config_of(const Case& c, int zero) {
    std::vector<std::string> overrides = c.overrides;
    overrides.push_back(fmt::format("parallel.zero={}", zero));
    return tiny_config(c.file, overrides);
}

// Seven slots: neither 2, 3 nor 4 ranks divide them.
const std::vector<std::string> seven{"train.global_batch=7", "train.lanes=7"};
const Case tied_fp32{"tied_fp32", "gpt/tiny.yaml", seven};
const Case cases[] = {
    tied_fp32,
    {"tied_bf16", "gpt/tiny.yaml", {"train.global_batch=7", "train.lanes=7", "train.dtype=bf16"}},
    {"untied_fp32", "llama/tiny.yaml", {"train.global_batch=5", "train.lanes=5"}},
    {"untied_bf16_wire",
     "llama/tiny.yaml",
     {"train.global_batch=5", "train.lanes=5", "train.dtype=bf16", "parallel.wire_dtype=bf16",
      "train.recompute=full"}},
    {"hidden_again_gelu",
     "gpt/tiny.yaml",
     {"train.global_batch=5", "train.lanes=5", "train.dtype=bf16", "model.dropout=0.1",
      "train.recompute=selective"}},
    {"hidden_again_swiglu",
     "llama/tiny.yaml",
     {"train.global_batch=5", "train.lanes=5", "train.recompute=selective"}},
    {"lanes_of_slots",
     "bloom/tiny.yaml",
     {"train.global_batch=11", "train.lanes=5", "train.recompute=none", "model.heads=4"},
     1},
};

class ZeroEquality : public testing::TestWithParam<Case> {};

TEST_P(ZeroEquality, StagesAndRanksChangeNoBit) {
    const Case& c = GetParam();
    RunConfig alone = config_of(c, 0);
    alone.train.recompute = Recompute::none;
    const EngineRun one = run_engine(alone, {});
    ASSERT_EQ(one.losses.size(), 3u);
    EXPECT_NE(one.losses[0], one.losses[2]);
    EXPECT_GT(one.norms[0], 0.5) << "clipping is not tested";
    for (int zero = 0; zero <= c.highest_zero; ++zero)
        for (int ranks = 1; ranks <= 4; ++ranks) {
            const EngineRun run = run_engine(config_of(c, zero), {.ranks = ranks});
            EXPECT_EQ(difference(one, run), "") << "zero " << zero << ", " << ranks << " ranks";
            for (const auto& [name, elements] : run.holders)
                EXPECT_EQ(elements,
                          static_cast<int64_t>(run.state.at(name).size()) * (zero == 0 ? ranks : 1))
                    << name;
        }
}

INSTANTIATE_TEST_SUITE_P(Cases, ZeroEquality, testing::ValuesIn(cases),
                         [](const auto& one) { return one.param.name; });

// --- mutants ------------------------------------------------------------------------------------

/// What goes wrong.
enum class Fault { shifted_owner, forgotten_tied_use, stale_weights, norm_reduced_twice };

/// The integers that ranks add up for the norm.
struct SquareWords {
    std::string label;
    size_t begin, count;
};

/// Goes wrong in one place; so do the groups that are split off.
class Tampering final : public plinth::test::ForwardingGroup {
  public:
    Tampering(Communicator& sound, Fault fault, SquareWords squares)
        : ForwardingGroup(sound), fault_(fault), squares_(std::move(squares)) {}
    Tampering(std::unique_ptr<Communicator> sound, Fault fault, SquareWords squares)
        : ForwardingGroup(std::move(sound)), fault_(fault), squares_(std::move(squares)) {}
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        return std::make_unique<Tampering>(ForwardingGroup::split(color, std::move(name)), fault_,
                                           squares_);
    }

  protected:
    std::function<void()> spoiler(const std::string& label, const std::vector<Bytes>& received) {
        const bool weights = label.starts_with("weights, ");
        if (fault_ == Fault::shifted_owner && weights)
            return [received] {
                for (const Bytes& piece : received)
                    std::rotate(piece.begin(), piece.begin() + 4, piece.end());
            };
        if (fault_ == Fault::stale_weights && weights && ++gathers_ > 30) {
            std::vector<std::vector<std::byte>> before;
            for (const Bytes& piece : received)
                before.emplace_back(piece.begin(), piece.end());
            return [received, before] {
                for (size_t i = 0; i < received.size(); ++i)
                    std::copy(before[i].begin(), before[i].end(), received[i].begin());
            };
        }
        // The repeated use of the table lies in the first buckets.
        if (fault_ == Fault::forgotten_tied_use && label.starts_with("gradients, bucket 0 "))
            return [received] {
                for (const Bytes& piece : received)
                    std::fill(piece.begin(), piece.end(), std::byte{});
            };
        return {};
    }

    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        auto spoil = spoiler(call.label, arrivals(receives));
        auto transfer = pass_on(call, sends, receives);
        if (spoil)
            transfer->ends = [spoil = std::move(spoil)] {
                spoil();
                return true;
            };
        return transfer;
    }
    std::unique_ptr<parallel::Transfer> exact_reduction(const Call& call, void* values,
                                                        size_t count, DType dtype,
                                                        parallel::Reduce reduce) override {
        auto sum = Communicator::exact_reduction(call, values, count, dtype, reduce);
        if (fault_ != Fault::norm_reduced_twice || call.label != squares_.label) return sum;
        CHECK(squares_.begin + squares_.count <= count, "{} integers", count);
        const std::shared_ptr<parallel::Transfer> once = std::move(sum);
        auto transfer = std::make_unique<Forwarded>();
        transfer->ends = [this, once, values] {
            if (!once->test()) return false;
            for (size_t i = 0; i < squares_.count; ++i)
                static_cast<int64_t*>(values)[squares_.begin + i] *= size();
            return true;
        };
        return transfer;
    }

  private:
    Fault fault_;
    SquareWords squares_;
    int gathers_ = 0;
};

TEST(ZeroMutants, EveryFaultIsSeen) {
    const RunConfig alone = config_of(tied_fp32, 0);
    const EngineRun one = run_engine(alone, {});
    const kernels::StepWords places = plinth::test::step_words(alone, 2);
    const auto part = plinth::test::words_of_squares(places);
    const SquareWords by_host{"sum", 0, part.count},
        by_device{plinth::test::step_words_label, part.begin, part.count};
    const std::map<Fault, std::string> shows{{Fault::shifted_owner, "losses"},
                                             {Fault::forgotten_tied_use, "norms"},
                                             {Fault::stale_weights, "losses"},
                                             {Fault::norm_reduced_twice, "norms"}};
    for (const int zero : {1, 2, 3})
        for (const bool on_device : {false, true})
            for (const auto& [fault, what] : shows) {
                const auto wrong = [&, which = fault](Communicator& sound) {
                    return std::make_unique<Tampering>(sound, which,
                                                       on_device ? by_device : by_host);
                };
                std::string found;
                try {
                    const EngineRun run =
                        run_engine(config_of(tied_fp32, zero),
                                   {.ranks = 2, .tamper = wrong, .on_device = on_device});
                    found = difference(one, run);
                } catch (const Error& error) {
                    found = error.what();  // the replica check
                }
                EXPECT_NE(found, "") << "zero " << zero << ", " << what << ", " << on_device;
                if (fault == Fault::norm_reduced_twice) {
                    EXPECT_TRUE(found == "losses" || found == "norms") << found;
                }
            }
}

// --- checkpoints --------------------------------------------------------------------------------

struct Layout {
    int zero, ranks;
};

TEST(ZeroCheckpoints, AnyStageAndSizeReadsAnyOther) {
    const Layout layouts[] = {{0, 1}, {1, 2}, {2, 3}, {3, 2}, {0, 3}, {3, 4}, {1, 3}, {2, 1}};
    for (const Case& c : {cases[0], cases[1]}) {
        const EngineRun straight = run_engine(config_of(c, 0), {.steps = 12});
        for (size_t from = 0; from < std::size(layouts); ++from) {
            plinth::test::MemoryFiles files;
            EngineRun saved;
            const Layout& writer = layouts[from];
            saved =
                run_engine(config_of(c, writer.zero),
                           {.ranks = writer.ranks, .steps = 2, .after_step = [&](EngineRank& rank) {
                                if (rank.step.step == 2) save(rank, files);
                            }});
            for (const size_t apart : {1u, 3u}) {
                const Layout& reader = layouts[(from + apart) % std::size(layouts)];
                const auto begin = [&](EngineRank& rank) { restore(rank, files); };
                const EngineRun loaded = run_engine(
                    config_of(c, reader.zero), {.ranks = reader.ranks, .steps = 0, .begin = begin});
                EXPECT_EQ(loaded.state, saved.state)
                    << c.name << ": zero " << writer.zero << " on " << writer.ranks << " to zero "
                    << reader.zero << " on " << reader.ranks;
                EngineRun on = run_engine(config_of(c, reader.zero),
                                          {.ranks = reader.ranks, .steps = 10, .begin = begin});
                on.losses.insert(on.losses.begin(), saved.losses.begin(), saved.losses.end());
                on.norms.insert(on.norms.begin(), saved.norms.begin(), saved.norms.end());
                EXPECT_EQ(difference(straight, on), "")
                    << c.name << ": zero " << writer.zero << " on " << writer.ranks << " to zero "
                    << reader.zero << " on " << reader.ranks;
            }
        }
    }
}

}  // namespace
}  // namespace plinth::launch::test
