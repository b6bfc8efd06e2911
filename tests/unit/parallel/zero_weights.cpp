// SPDX-License-Identifier: Apache-2.0
// Weights of each ZeRO stage over thread ranks: whatever order operations read them in, they see
// what the owners' masters held after the last change.
#include "parallel/zero/weights.h"

#include <gtest/gtest.h>

#include "core/autograd/scope.h"
#include "kernels/runtime/philox.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"

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
};

/// One rank of a group.
class Rank {
  public:
    Rank(Communicator& comm, const WeightsCase& c)
        : compute_(c.compute),
          layout_(model.parameters, c.bucket_bytes),
          weights(parallel::make_weights(
              model.parameters, layout_, comm, allocator, stream_,
              {.zero = c.zero, .compute = c.compute, .in_flight = 3, .before_gather = [this] {
                   ++gathers;
               }})) {}

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
