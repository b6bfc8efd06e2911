// SPDX-License-Identifier: Apache-2.0
// Weights of each ZeRO stage over thread ranks: whatever order operations read them in, they see
// what the owners' masters held after the last change.
#include "parallel/zero/weights.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>

#include "core/autograd/scope.h"
#include "kernels/runtime/philox.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"
#include "tests/support/observed_group.h"

namespace plinth::test {
namespace {

using core::Parameter;
using parallel::BucketLayout;
using parallel::Communicator;
using parallel::Weights;

/// Matrices and vectors of odd sizes in the order of a forward pass; the first is read at the end
/// of it too.
struct Model {
    std::vector<std::unique_ptr<Parameter>> owned;
    std::vector<Parameter*> parameters;

    Model() {
        add("table", {50, 70}, 2);
        for (int block = 0; block < 4; ++block) {
            add(fmt::format("{}.norm", block), {70}, 1);
            add(fmt::format("{}.matrix", block), {70, 90}, 1);
            add(fmt::format("{}.bias", block), {1 + block * 700}, 1);
        }
    }
    void add(const std::string& name, const Shape& shape, int uses) {
        owned.push_back(std::make_unique<Parameter>(Parameter::Spec{.name = name, .shape = shape}));
        for (int use = 0; use < uses; ++use)
            owned.back()->add_use();
        parameters.push_back(owned.back().get());
    }
};

float value_of(size_t parameter, int64_t element, int version) {
    return static_cast<float>(
        philox({static_cast<uint32_t>(element), static_cast<uint32_t>(parameter),
                static_cast<uint32_t>(version), 0},
               {3u, 5u})[0] %
        65536);
}

struct WeightsCase {
    int zero;
    DType compute = DType::f32;
    int64_t bucket_bytes = 8192;
    int ahead = parallel::WeightsOptions{}.ahead;
};

/// One rank of a group.
class Rank {
  public:
    Rank(Communicator& comm, const WeightsCase& c)
        : compute_(c.compute),
          layout_(model.parameters, c.bucket_bytes),
          weights(parallel::make_weights(model.parameters, layout_, comm, allocator, stream_,
                                         {.zero = c.zero,
                                          .compute = c.compute,
                                          .in_flight = 3,
                                          .ahead = c.ahead,
                                          .before_gather = [this] { ++gathers; }})) {}

    core::Scope::Settings settings() { return {.stream = &stream_, .allocator = &allocator}; }

    void change(int version, bool announced = true) {
        weights->settle();
        for (core::optim::MasterWeights master : weights->masters()) {
            const size_t p = index_of(*master.range.parameter);
            auto* values = master.weights.out().as<float>();
            for (int64_t i = 0; i < master.range.elements(); ++i)
                values[i] = value_of(p, master.range.begin + i, version);
        }
        if (announced) weights->masters_changed();
        version_ = version;
    }

    void read(size_t p) {
        Parameter& parameter = *model.parameters.at(p);
        const DType dtype = parameter.read_as(compute_);
        const core::Tensor& found = parameter.acquire(dtype);
        if (on_read) on_read(layout_.entries()[layout_.entry_of(parameter, 0)].unit);
        CHECK(found.shape() == parameter.local_shape(), "shape of {}", parameter.name());
        for (int64_t i = 0; i < found.elements(); ++i) {
            const float expected = value_of(p, i, version_);
            const float value = dtype == DType::f32
                                    ? found.in().as<float>()[i]
                                    : static_cast<float>(found.in().as<BFloat16>()[i]);
            const float rounded =
                dtype == DType::f32 ? expected : static_cast<float>(BFloat16(expected));
            CHECK(value == rounded, "{}: element {} is {}, not {}", parameter.name(), i, value,
                  rounded);
        }
        parameter.release();
    }

    void forward() {
        for (size_t p = 0; p < model.parameters.size(); ++p)
            read(p);
        read(0);
    }
    void backward() {
        read(0);
        for (size_t p = model.parameters.size(); p-- > 1;)
            read(p);
    }

    size_t index_of(const Parameter& parameter) const {
        for (size_t p = 0; p < model.parameters.size(); ++p)
            if (model.parameters[p] == &parameter) return p;
        FAIL(internal, "{}: unknown", parameter.name());
    }

    CachingAllocator allocator{host_memory()};  // outlives the parameters' tensors
    Model model;
    int gathers = 0;
    std::function<void(size_t unit)> on_read;  ///< once it was acquired
    /// Of each bucket's label.
    std::map<std::string, size_t> units() const {
        std::map<std::string, size_t> units;
        for (size_t b = 0; b < layout_.buckets(); ++b)
            units[layout_.label(b)] = layout_.unit_of(b);
        return units;
    }

  private:
    DType compute_;
    Stream stream_{1};
    BucketLayout layout_;
    int version_ = 0;

  public:
    std::unique_ptr<Weights> weights;
};

/// Steps of several rounds, in the last of which some ranks have no micro-batch; evaluations; a
/// pass in an order that nobody foresaw.
void check_weights(Communicator& comm, const WeightsCase& c) {
    Rank rank(comm, c);
    const core::Scope scope(rank.settings());
    for (int step = 0; step < 3; ++step) {
        rank.change(step);
        for (const int working : {comm.size(), comm.size(), (comm.size() + 1) / 2, 1}) {
            if (comm.rank() >= working) {
                rank.weights->join_micro_batch(working);
                continue;
            }
            rank.weights->begin_micro_batch(working);
            rank.forward();
            rank.backward();
            rank.weights->end_micro_batch();
        }
        rank.weights->settle();
        rank.forward();
        rank.forward();
        for (const size_t p : {7u, 2u, 2u, 11u, 0u, 5u, 7u, 1u})
            rank.read(p);
    }
    std::vector<int64_t> owned{0};
    int64_t all = 0;
    for (const auto& master : rank.weights->masters())
        owned[0] += master.range.elements();
    for (const Parameter* parameter : rank.model.parameters)
        all += parameter->local_elements();
    comm.all_reduce("owned elements", std::span(owned), parallel::Reduce::sum);
    CHECK(owned[0] == all * (c.zero == 0 ? comm.size() : 1), "{} elements of {} are owned",
          owned[0], all);
}

class ZeroWeights : public testing::TestWithParam<int> {};

TEST_P(ZeroWeights, OperationsReadWhatTheOwnersHold) {
    parallel::run_as_threads(GetParam(), [](Communicator& comm) {
        for (int zero = 0; zero <= 3; ++zero)
            for (const DType compute : {DType::f32, DType::bf16})
                for (const int64_t bytes : {4096, 8192, 1 << 20})
                    check_weights(comm, {.zero = zero, .compute = compute, .bucket_bytes = bytes});
    });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ZeroWeights, testing::Values(1, 2, 3, 4, 5));

TEST(ZeroWeightsMutants, MastersThatChangeUnannouncedAreSeen) {
    for (const int zero : {1, 2, 3})
        expect_error(
            ErrorKind::internal,
            [&] {
                parallel::run_as_threads(2, [&](Communicator& comm) {
                    Rank rank(comm, {.zero = zero, .compute = DType::bf16});
                    rank.change(1);
                    rank.forward();
                    rank.change(2, /*announced=*/false);
                    rank.forward();
                });
            },
            "element", ", not ");
}

TEST(ZeroWeights, StageThreeHoldsAFewUnitsAndGathersAhead) {
    parallel::run_as_threads(4, [](Communicator& comm) {
        Rank rank(comm, {.zero = 3});
        rank.change(1);
        const size_t resting = rank.allocator.use().in_use;
        rank.weights->begin_micro_batch(4);
        rank.forward();
        rank.backward();
        rank.weights->end_micro_batch();
        CHECK(rank.allocator.use().in_use == resting, "everything is given back");
        const auto before = rank.weights->traffic();
        const int gathers = rank.gathers;
        rank.weights->begin_micro_batch(4);
        rank.forward();
        rank.backward();
        rank.weights->end_micro_batch();
        CHECK(rank.allocator.use().in_use == resting, "everything is given back");
        CHECK(rank.gathers > gathers, "nothing was gathered");
        CHECK(rank.weights->traffic().bytes_sent > before.bytes_sent, "nothing was sent");
        // All weights, padded: 4 KiB a vector, 28 KiB a matrix; the three largest units are 92 KiB.
        CHECK(rank.allocator.use().peak <= resting + 4 * 32 * 1024, "{} bytes over {} at rest",
              rank.allocator.use().peak - resting, resting);
    });
}

/// Begun gathers and reads of units, in their order.
struct UnitEvent {
    bool is_read = false;
    size_t unit = 0;
};

/// Of one learned micro-batch on rank 0 of three.
std::vector<UnitEvent> events_of_a_pass(int ahead) {
    std::vector<UnitEvent> events;
    parallel::run_as_threads(3, [&](Communicator& comm) {
        std::map<std::string, size_t> units;
        const auto observer = std::make_shared<plinth::test::GroupObserver>();
        ObservedGroup observed(comm, observer);
        Rank rank(observed, {.zero = 3, .ahead = ahead});
        rank.change(1);
        const auto pass = [&] {
            rank.weights->begin_micro_batch(3);
            rank.forward();
            rank.backward();
            rank.weights->end_micro_batch();
        };
        pass();
        if (comm.rank() == 0) {
            units = rank.units();
            observer->sent = [&](const std::string& label, int64_t) {
                const std::string prefix = "weights, ";
                if (!label.starts_with(prefix)) return;
                const size_t unit = units.at(label.substr(prefix.size()));
                if (events.empty() || events.back().is_read || events.back().unit != unit)
                    events.push_back({false, unit});
            };
            rank.on_read = [&](size_t unit) { events.push_back({true, unit}); };
        }
        pass();
    });
    return events;
}

struct Visits {
    size_t all = 0;       ///< units read, neighbours once, but the first of the pass
    size_t gathered = 0;  ///< of those, gathered for it since an earlier visit
    size_t ahead = 0;     ///< of those, whose gather had begun before the unit before was read
};

Visits visits_of(const std::vector<UnitEvent>& events) {
    Visits visits;
    std::map<size_t, size_t> begun;  // after how many units were read, by unit
    std::optional<size_t> current;
    size_t read = 0;
    for (const UnitEvent& event : events) {
        if (!event.is_read) {
            begun[event.unit] = read;
        } else if (current != event.unit) {
            current = event.unit;
            if (++read == 1) continue;
            ++visits.all;
            const auto gather = begun.find(event.unit);
            if (gather == begun.end()) continue;
            ++visits.gathered;
            // The unit before was number read - 1: before it was read there were fewer.
            if (gather->second < read - 1) ++visits.ahead;
            begun.erase(gather);
        }
    }
    return visits;
}

TEST(ZeroWeights, StageThreeBeginsToGatherTheNextUnitBeforeThisOneIsRead) {
    for (const int ahead : {1, 2, 3}) {
        const Visits visits = visits_of(events_of_a_pass(ahead));
        EXPECT_GT(visits.all, 8u) << "several units, forward and backward";
        // Where the backward pass begins the last units are still there.
        EXPECT_GE(visits.gathered + static_cast<size_t>(ahead), visits.all);
        EXPECT_EQ(visits.ahead, visits.gathered) << ahead << " ahead";
    }
    const Visits mutant = visits_of(events_of_a_pass(0));
    EXPECT_GT(mutant.gathered, 8u);
    EXPECT_EQ(mutant.ahead, 0u) << "the mutant: nothing ahead";
}

TEST(ZeroWeights, AReaderThatStaysIsNamed) {
    expect_error(
        ErrorKind::internal,
        [] {
            parallel::run_as_threads(1, [](Communicator& comm) {
                Rank rank(comm, {.zero = 3});
                rank.change(1);
                rank.weights->begin_micro_batch(1);
                rank.model.parameters[2]->acquire(DType::f32);
                rank.weights->end_micro_batch();
            });
        },
        "0.matrix", "not released");
}

}  // namespace
}  // namespace plinth::test
