// SPDX-License-Identifier: Apache-2.0
// Master weights and moments in host memory, beside a device whose memory faults when the host
// touches it and whose work and copies are done as late as they may be: in every ZeRO stage the
// bits of AdamW without all that, and a difference as soon as one copy or one wait is left out.
#include "core/optim/offload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "core/autograd/scope.h"
#include "core/io/hash.h"
#include "core/optim/adamw.h"
#include "parallel/comm/threads.h"
#include "parallel/zero/weights.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_offload.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;
using core::optim::AdamW;
using core::optim::MasterWeights;
using core::optim::Offload;
using core::optim::ParameterGradient;
using parallel::BucketLayout;
using parallel::Communicator;

struct Case {
    int zero = 0;
    DType compute = DType::f32;
    DType moments = DType::f32;
    int ranks = 1;
    bool offloads = true;
    int steps = 4;
    int64_t block_bytes = 4096;  ///< less than a matrix
    EngineFaults to_host = {}, to_device = {};
    bool keeps_a_moment = false;       ///< one that the third step changes
    bool scales_twice = false;         ///< the gradient
    bool forgets_to_announce = false;  ///< the last change of the master weights
};

/// What a training comes to.
struct Outcome {
    std::vector<uint64_t> read;  ///< hashes of the weights, each time that they were read
    std::map<std::string, std::vector<float>> state;
    int copies_to_host = 0, copies_to_device = 0;  ///< of rank 0
    bool has_same_bits(const Outcome& other) const {
        return read == other.read && state == other.state;
    }
};

/// Matrices and vectors of odd sizes, the first with two uses.
struct Model {
    std::vector<std::unique_ptr<Parameter>> owned;
    std::vector<Parameter*> parameters;

    Model() {
        add("table", {50, 70}, 2);
        for (int block = 0; block < 2; ++block) {
            add(fmt::format("{}.norm", block), {70}, 1);
            add(fmt::format("{}.matrix", block), {70, 90}, 1);
            add(fmt::format("{}.bias", block), {1 + block * 700}, 1);
        }
    }
    void add(const std::string& name, const Shape& shape, int uses) {
        owned.push_back(std::make_unique<Parameter>(
            Parameter::Spec{.name = name, .shape = shape, .init = {}, .decay = shape.rank() > 1}));
        for (int use = 0; use < uses; ++use)
            owned.back()->add_use();
        parameters.push_back(owned.back().get());
    }
};

/// Between -1 and 1.
float noise(int64_t a, int64_t b) {
    return static_cast<float>((a * 37 + b * 1013 + a * b % 89) % 193 - 96) / 96.0f;
}

class Rank {
  public:
    Rank(Communicator& comm, const Case& c)
        : case_(c),
          comm_(comm),
          device_(c.offloads ? std::make_unique<WithFakeDevice>(comm) : nullptr),
          source_(device_ ? std::make_unique<FakeDeviceMemory>(**device_) : nullptr),
          memory_(source_ ? static_cast<MemorySource&>(*source_) : host_memory()),
          layout_(model_.parameters, /*bucket_bytes=*/8192) {
        if (device_) {
            auto down = std::make_unique<FakeCopyEngine>(**device_, c.to_host);
            auto up = std::make_unique<FakeCopyEngine>(**device_, c.to_device);
            down_ = down.get();
            up_ = up.get();
            offload_ = std::make_unique<Offload>(
                stream_, Offload::Memory{.states = host_, .blocks = host_},
                Offload::Engines{.to_host = std::move(down), .to_device = std::move(up)},
                c.block_bytes);
        }
        weights_ = parallel::make_weights(
            model_.parameters, layout_, comm, memory_, stream_,
            {.zero = c.zero, .compute = c.compute, .in_flight = 3, .offload = offload_.get()});
        const auto given = weights_->masters();
        masters_.assign(given.begin(), given.end());
        const core::optim::AdamWConfig config{.moments = c.moments, .seed = 3};
        optimizer_ = offload_ ? std::make_unique<AdamW>(masters_, config, *offload_)
                              : std::make_unique<AdamW>(masters_, config, memory_);
        for (const MasterWeights& master : masters_)
            gradients_.push_back(Tensor::empty({master.range.elements()}, DType::f32, memory_));
        values_.resize(model_.parameters.size());
    }
    /// What the device has still to do refers to the members.
    ~Rank() {
        if (device_) (*device_)->synchronize();
    }
    Rank(const Rank&) = delete;
    Rank& operator=(const Rank&) = delete;

    Outcome train() {
        const core::Scope scope({.stream = &stream_, .allocator = &memory_});
        for (MasterWeights& master : masters_) {
            auto* values = master.weights.data<float>();
            for (int64_t i = 0; i < master.range.elements(); ++i)
                values[i] = noise(master.range.begin + i, index_of(*master.range.parameter));
        }
        weights_->masters_changed();
        for (int step = 0; step < case_.steps; ++step) {
            weights_->begin_micro_batch(comm_.size());
            read();
            write_gradients(step);
            weights_->end_micro_batch();
            weights_->settle();
            update(step);
        }
        read();
        if (device_) {
            (*device_)->synchronize();
            outcome_.copies_to_host = down_->copies();
            outcome_.copies_to_device = up_->copies();
        }
        collect();
        return std::move(outcome_);
    }

  private:
    int64_t index_of(const Parameter& parameter) const {
        const auto& all = model_.parameters;
        return std::find(all.begin(), all.end(), &parameter) - all.begin();
    }
    /// Work of the device's stream.
    void then(std::function<void()> work) {
        if (device_) return (*device_)->then(std::move(work));
        work();
    }
    const std::byte* content_of(const void* data) {
        return device_ ? (*device_)->content_of(data) : static_cast<const std::byte*>(data);
    }

    void read() {
        for (size_t p = 0; p < model_.parameters.size(); ++p) {
            Parameter& parameter = *model_.parameters[p];
            const ConstView view = parameter.acquire(parameter.read_as(case_.compute)).in();
            then([this, p, view] {
                const std::byte* bytes = content_of(view.data);
                outcome_.read.push_back(core::io::xxh3_64(std::span(bytes, view.bytes())));
                values_[p].resize(static_cast<size_t>(view.elements()));
                for (size_t i = 0; i < values_[p].size(); ++i)
                    values_[p][i] =
                        view.dtype == DType::f32
                            ? reinterpret_cast<const float*>(bytes)[i]
                            : static_cast<float>(reinterpret_cast<const BFloat16*>(bytes)[i]);
            });
            parameter.release();
        }
    }
    void write_gradients(int step) {
        for (size_t m = 0; m < masters_.size(); ++m)
            then([this, m, step, to = gradients_[m].out().data] {
                const auto& range = masters_[m].range;
                const auto p = static_cast<size_t>(index_of(*range.parameter));
                auto* values = reinterpret_cast<float*>(const_cast<std::byte*>(content_of(to)));
                for (int64_t i = 0; i < range.elements(); ++i)
                    values[i] = 0.5f * values_[p][static_cast<size_t>(range.begin + i)] +
                                noise(range.begin + i, step);
            });
    }
    void update(int step) {
        std::vector<ParameterGradient> gradients;
        for (size_t m = 0; m < masters_.size(); ++m)
            gradients.push_back(
                {masters_[m].range.parameter, gradients_[m].out(), masters_[m].range.begin});
        const double scale = case_.scales_twice ? 0.25 : 0.5;
        const std::vector<core::StateTensor> moments = optimizer_->state();
        const core::StateTensor& moment = moments.back();
        const auto* at = static_cast<const std::byte*>(moment.data);
        const std::vector<std::byte> before(at, at + moment.bytes());
        // What is read between update and announcement are the weights of before, where operations
        // read copies.
        if (!device_) read();
        optimizer_->step(gradients,
                         {.learning_rate = 0.05, .gradient_scale = scale, .number = step}, stream_);
        if (case_.keeps_a_moment && step == 2)
            std::copy(before.begin(), before.end(), static_cast<std::byte*>(moment.data));
        if (device_) read();
        if (case_.forgets_to_announce && step + 1 == case_.steps) return;
        weights_->masters_changed();
    }
    void collect() {
        const auto add = [&](const std::string& name, const core::optim::ParameterRange& range,
                             const float* values) {
            std::vector<float>& all = outcome_.state[name];
            all.resize(static_cast<size_t>(range.parameter->local_elements()), 1e9f);
            std::copy(values, values + range.elements(), all.begin() + range.begin);
        };
        for (const MasterWeights& master : masters_)
            add(master.range.parameter->name(), master.range, master.weights.in().as<float>());
        const std::vector<core::StateTensor> moments = optimizer_->state();
        for (size_t i = 0; i < moments.size(); ++i) {
            std::vector<float> values;
            for (int64_t e = 0; e < moments[i].shard.elements(); ++e)
                values.push_back(moments[i].value(e));
            add(moments[i].name, masters_[i % masters_.size()].range, values.data());
        }
    }

    Case case_;
    Communicator& comm_;
    CachingAllocator host_{host_memory()};
    std::unique_ptr<WithFakeDevice> device_;  ///< null: all memory is the host's
    std::unique_ptr<FakeDeviceMemory> source_;
    CachingAllocator memory_;  ///< where the model computes
    Model model_;
    Stream stream_{1};
    BucketLayout layout_;
    FakeCopyEngine *down_ = nullptr, *up_ = nullptr;
    std::unique_ptr<Offload> offload_;
    std::unique_ptr<parallel::Weights> weights_;
    std::vector<MasterWeights> masters_;
    std::unique_ptr<AdamW> optimizer_;
    std::vector<Tensor> gradients_;           ///< by master
    std::vector<std::vector<float>> values_;  ///< as read, by parameter
    Outcome outcome_;
};

/// State of all ranks together, the rest of rank 0; the others must have read the same.
Outcome outcome_of(const Case& c) {
    std::mutex mutex;
    Outcome all;
    parallel::run_as_threads(c.ranks, [&](Communicator& comm) {
        Outcome mine = Rank(comm, c).train();
        const std::lock_guard lock(mutex);
        if (all.read.empty()) all.read = mine.read;
        CHECK(mine.read == all.read, "ranks read different weights");
        if (comm.rank() == 0) {
            all.copies_to_host = mine.copies_to_host;
            all.copies_to_device = mine.copies_to_device;
        }
        for (const auto& [name, values] : mine.state) {
            const auto [place, is_new] = all.state.emplace(name, values);
            for (size_t i = 0; i < values.size() && !is_new; ++i)
                if (place->second[i] == 1e9f) place->second[i] = values[i];
        }
    });
    return all;
}

Outcome without_offload(DType compute, int steps, DType moments = DType::f32) {
    return outcome_of({.compute = compute, .moments = moments, .offloads = false, .steps = steps});
}

class OffloadedTraining : public testing::TestWithParam<int> {};

TEST_P(OffloadedTraining, HasTheBitsOfOneThatIsNot) {
    for (const DType compute : {DType::f32, DType::bf16}) {
        const Outcome expected = without_offload(compute, 50);
        ASSERT_EQ(expected.read.size(), 101u * Model().parameters.size());
        for (int zero = 0; zero <= 3; ++zero)
            for (const int64_t block_bytes : {4096, 1 << 20}) {
                const Outcome found = outcome_of({.zero = zero,
                                                  .compute = compute,
                                                  .ranks = GetParam(),
                                                  .steps = 50,
                                                  .block_bytes = block_bytes});
                EXPECT_TRUE(found.has_same_bits(expected))
                    << "zero " << zero << ", " << name_of(compute) << ", blocks of " << block_bytes;
            }
    }
}

/// Blocks of 2,048 bytes cut tensors, and what is rounded depends on an element's number.
TEST_P(OffloadedTraining, RoundsMomentsAsOneThatIsNot) {
    const Outcome expected = without_offload(DType::bf16, 8, DType::bf16);
    EXPECT_FALSE(without_offload(DType::bf16, 8).has_same_bits(expected)) << "nothing is rounded";
    for (int zero = 0; zero <= 3; ++zero)
        for (const int64_t block_bytes : {4096, 1 << 20}) {
            const Case sound{.zero = zero,
                             .compute = DType::bf16,
                             .moments = DType::bf16,
                             .ranks = GetParam(),
                             .steps = 8,
                             .block_bytes = block_bytes};
            EXPECT_TRUE(outcome_of(sound).has_same_bits(expected))
                << "zero " << zero << ", blocks of " << block_bytes;
            Case mutant = sound;
            mutant.keeps_a_moment = true;
            EXPECT_FALSE(outcome_of(mutant).has_same_bits(expected)) << "zero " << zero;
        }
}

INSTANTIATE_TEST_SUITE_P(Ranks, OffloadedTraining, testing::Values(1, 2, 3));

/// True if that training ends, and as the sound one does.
bool is_unseen(const Case& c) {
    try {
        return outcome_of(c).has_same_bits(without_offload(c.compute, c.steps));
    } catch (const Error&) {  // ranks that read different weights
        return false;
    }
}

TEST(OffloadMutants, EveryForgottenCopyIsSeen) {
    for (const int zero : {0, 1}) {
        const Case sound{.zero = zero, .ranks = zero + 1, .steps = 2, .block_bytes = 32768};
        const Outcome outcome = outcome_of(sound);
        ASSERT_TRUE(is_unseen(sound));
        ASSERT_GT(outcome.copies_to_host, 10);
        ASSERT_GT(outcome.copies_to_device, 10);
        for (int n = 0; n < outcome.copies_to_host; ++n) {
            Case mutant = sound;
            mutant.to_host.forgotten = n;
            EXPECT_FALSE(is_unseen(mutant)) << "zero " << zero << ", gradient copy " << n;
        }
        for (int n = 0; n < outcome.copies_to_device; ++n) {
            Case mutant = sound;
            mutant.to_device.forgotten = n;
            EXPECT_FALSE(is_unseen(mutant)) << "zero " << zero << ", weight copy " << n;
        }
    }
}

TEST(OffloadMutants, EveryForgottenWaitIsSeen) {
    const Case sound{};
    ASSERT_TRUE(is_unseen(sound));
    const std::map<std::string, Case> mutants{
        {"gradients before they are made", {.to_host = {.ignores_stream = true}}},
        {"gradients before they are there", {.to_host = {.does_not_wait = true}}},
        {"weights while they are read", {.to_device = {.ignores_stream = true}}},
        {"weights of a block that is filled again", {.to_device = {.does_not_wait = true}}},
        {"weights after they are read", {.to_device = {.does_not_hold = true}}}};
    for (const auto& [what, mutant] : mutants)
        EXPECT_FALSE(is_unseen(mutant)) << what;
}

TEST(OffloadMutants, WrongUpdatesAreSeen) {
    for (const int zero : {0, 2}) {
        EXPECT_FALSE(is_unseen({.zero = zero, .keeps_a_moment = true})) << "a stale moment";
        EXPECT_FALSE(is_unseen({.zero = zero, .scales_twice = true})) << "clipped twice";
        EXPECT_FALSE(is_unseen({.zero = zero, .forgets_to_announce = true}))
            << "updated weights that are not copied back";
    }
}

/// Memory full of ones, which zeroes itself on the thread that asks: too slow for whole states.
class SlowHostMemory final : public MemorySource {
  public:
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override {
        return std::memset(host_memory().allocate(bytes), 0xFF, bytes);
    }
    void free(void* block, size_t bytes) override { host_memory().free(block, bytes); }
    void set_zero(void* data, size_t bytes) override {
        ++slow_zeros;
        std::memset(data, 0, bytes);
    }
    int slow_zeros = 0;
};

TEST(OffloadTest, StatesAreZeroedByTheThreadsOfTheStream) {
    SlowHostMemory memory;
    CachingAllocator slow(memory), blocks(host_memory());
    Stream stream(3);
    Offload offload(stream, {.states = slow, .blocks = blocks});
    Parameter large({.name = "large", .shape = {3, 1 << 20}, .init = {}, .decay = true});
    Parameter small({.name = "small", .shape = {5}, .init = {}, .decay = true});
    Parameter* parameters[] = {&large, &small};
    const auto ranges = core::optim::ParameterRange::whole(parameters);
    const auto masters = [&](core::optim::FlatTensors& states) {
        return std::vector<MasterWeights>{{states.range(0), states[0]},
                                          {states.range(1), states[1]}};
    };
    const auto is_zero = [](const core::StateTensor& tensor) {
        const auto* values = static_cast<const std::byte*>(tensor.data);
        return std::all_of(values, values + tensor.bytes(),
                           [](std::byte value) { return value == std::byte{0}; });
    };
    const uint64_t before = *stream.pool().progress();
    core::optim::FlatTensors states = offload.make_states(ranges);
    AdamW optimizer(masters(states), {}, offload);
    EXPECT_EQ(memory.slow_zeros, 0);
    EXPECT_GT(*stream.pool().progress(), before);
    std::vector<core::StateTensor> all = optimizer.state();
    for (const core::StateTensor& tensor : states.state(""))
        all.push_back(tensor);
    ASSERT_EQ(all.size(), 6u);
    for (const core::StateTensor& tensor : all)
        EXPECT_TRUE(is_zero(tensor)) << tensor.name;
    const AdamW mutant(masters(states), {}, slow);
    EXPECT_EQ(memory.slow_zeros, 2);
}

TEST(OffloadTest, StatesMustBeInHostMemory) {
    FakeDevice device;
    FakeDeviceMemory source(device);
    CachingAllocator memory(source), host(host_memory());
    Stream stream(1);
    expect_error(
        ErrorKind::internal, [&] { Offload(stream, {.states = memory, .blocks = host}); },
        "not the host's");
    Offload offload(stream, {.states = host, .blocks = host});
    Parameter parameter({.name = "w", .shape = {8}, .init = {}, .decay = true});
    std::vector<MasterWeights> masters{
        {core::optim::ParameterRange::whole(parameter), Tensor::empty({8}, DType::f32, memory)}};
    expect_error(
        ErrorKind::internal, [&] { AdamW(masters, {}, offload); }, "w: master weights on a device");
}

}  // namespace
}  // namespace plinth::test
