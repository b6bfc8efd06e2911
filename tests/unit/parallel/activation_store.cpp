// SPDX-License-Identifier: Apache-2.0
// Inputs that wait in host memory, beside a device whose memory faults when the host touches it,
// whose work is done as late as it may be, and whose copies are as late or as early as they may be:
// the bits of a run that keeps them, and a difference as soon as one copy or one wait is left out.
#include "core/autograd/activation_store.h"

#include <gtest/gtest.h>

#include <map>

#include "core/autograd/recompute.h"
#include "core/autograd/scope.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_offload.h"

namespace plinth::test {
namespace {

using core::ActivationStore;
using core::Tensor;

struct EngineCase {
    EngineFaults faults = {};
    CopyTime time = CopyTime::late;
};

struct Case {
    bool stores = true;
    int in_flight = 1;  ///< micro-batches between their passes
    int layers = 4;
    EngineCase to_host = {}, to_device = {};
    int fails_at = -1;  ///< the call of a layer's function of that number
};

struct EngineCounts {
    int copies = 0, waits = 0, holds = 0;
};

struct Outcome {
    std::vector<float> dx;
    size_t peak = 0, on_host = 0;  ///< bytes
    EngineCounts to_host, to_device;
};

constexpr int64_t width = 512;
constexpr int micro_batches = 5;

/// Micro-batches through layers that run again, on a fake device.
class Passes {
  public:
    explicit Passes(const Case& c) : case_(c) {
        auto down = std::make_unique<FakeCopyEngine>(device_, c.to_host.faults, c.to_host.time);
        auto up = std::make_unique<FakeCopyEngine>(device_, c.to_device.faults, c.to_device.time);
        down_ = down.get();
        up_ = up.get();
        store_ = std::make_unique<ActivationStore>(
            host_memory(),
            ActivationStore::Engines{.to_host = std::move(down), .to_device = std::move(up)});
    }

    Outcome run() {
        for (int begun = 0; begun < micro_batches + case_.in_flight; ++begun) {
            if (begun >= case_.in_flight) backward(begun - case_.in_flight);
            if (begun < micro_batches) forward(begun);
        }
        device_.synchronize();
        outcome_.peak = allocator_.use().peak;
        outcome_.on_host = store_->peak_bytes();
        outcome_.to_host = {down_->copies(), down_->waits(), down_->holds()};
        outcome_.to_device = {up_->copies(), up_->waits(), up_->holds()};
        return std::move(outcome_);
    }

    /// Ends all tapes.
    void drop() { flights_.clear(); }
    void finish() {
        device_.synchronize();
        down_->synchronize();
        up_->synchronize();
    }
    /// With these elements, as the device's next work.
    Tensor tensor(const std::vector<float>& values) {
        Tensor tensor = Tensor::empty({width}, DType::f32, allocator_);
        device_.write(static_cast<std::byte*>(tensor.out().data), std::as_bytes(std::span(values)));
        return tensor;
    }
    float* elements(const void* data) { return reinterpret_cast<float*>(device_.content_of(data)); }

  private:
    struct Flight {
        core::Tape tape;
        Tensor input;  ///< its place on the tape
        core::GradientEdge output;
    };

    core::Scope::Settings settings(core::Tape* tape) {
        return {.stream = &stream_,
                .allocator = &allocator_,
                .tape = tape,
                .activations = case_.stores ? store_.get() : nullptr};
    }

    /// y = k x + x^2 / 4
    Tensor bend(const Tensor& x, float k) {
        Tensor y = core::Scope::current().empty(x.shape(), DType::f32);
        device_.then([this, to = y.out().data, from = x.in().data, k] {
            for (int64_t i = 0; i < width; ++i) {
                const float value = elements(from)[i];
                elements(to)[i] = k * value + 0.25f * value * value;
            }
        });
        core::Tape* tape = core::Scope::current().tape();
        if (!tape) return y;
        tape->record("bend", {&x}, {&y},
                     [this, saved = core::SavedTensor(x), k](core::NodeGradients& node) {
                         const Tensor kept = saved.get("bend");
                         Tensor dx = core::Scope::current().empty(kept.shape(), DType::f32);
                         device_.then([this, to = dx.out().data, from = kept.in().data,
                                       dy = node.of_output(0).in().data, k] {
                             for (int64_t i = 0; i < width; ++i)
                                 elements(to)[i] = elements(dy)[i] * (k + 0.5f * elements(from)[i]);
                         });
                         node.set_input(0, std::move(dx));
                     });
        return y;
    }

    Tensor layer(const Tensor& x, int number) {
        return core::recompute(
            [this, number](const Tensor& input) {
                CHECK(calls_++ != case_.fails_at, "this layer fails");
                return bend(bend(input, 0.5f + 0.01f * static_cast<float>(number)), 0.75f);
            },
            x);
    }

    void forward(int number) {
        auto flight = std::make_unique<Flight>();
        const core::Scope scope(settings(&flight->tape));
        std::vector<float> values;
        for (int64_t i = 0; i < width; ++i)
            values.push_back(0.01f * static_cast<float>((i * 37 + number * 101) % 193 - 96));
        Tensor x = tensor(values);
        flight->tape.watch(x);
        flight->input.set_edge(x.edge());
        for (int i = 0; i < case_.layers; ++i)
            x = layer(x, i);
        flight->output = x.edge();
        flights_[number] = std::move(flight);
    }

    void backward(int number) {
        Flight& flight = *flights_.at(number);
        const core::Scope scope(settings(&flight.tape));
        std::vector<core::Root> roots;
        roots.emplace_back(flight.output, tensor(std::vector<float>(width, 1.0f)));
        const Tensor dx = flight.tape.backward(std::move(roots), {&flight.input, 1}).front();
        device_.then([this, from = dx.in().data] {
            outcome_.dx.insert(outcome_.dx.end(), elements(from), elements(from) + width);
        });
        flights_.erase(number);
    }

    Case case_;
    FakeDevice device_;
    FakeDeviceMemory source_{device_};
    CachingAllocator allocator_{source_};
    Stream stream_{1};
    FakeCopyEngine *down_ = nullptr, *up_ = nullptr;
    std::unique_ptr<ActivationStore> store_;
    std::map<int, std::unique_ptr<Flight>> flights_;
    int calls_ = 0;
    Outcome outcome_;
};

Outcome outcome_of(const Case& c) {
    return Passes(c).run();
}

TEST(OffloadedActivations, HaveTheBitsOfThoseThatStay) {
    const Outcome kept = outcome_of({.stores = false});
    ASSERT_EQ(kept.dx.size(), static_cast<size_t>(micro_batches * width));
    for (const int in_flight : {1, 3})
        for (const CopyTime down : {CopyTime::late, CopyTime::early})
            for (const CopyTime up : {CopyTime::late, CopyTime::early}) {
                const Outcome stored = outcome_of(
                    {.in_flight = in_flight, .to_host = {.time = down}, .to_device = {.time = up}});
                EXPECT_EQ(stored.dx, kept.dx) << in_flight << " in flight";
                EXPECT_EQ(stored.to_host.copies, micro_batches * 4);
                EXPECT_EQ(stored.to_device.copies,
                          in_flight == 1 ? micro_batches * 3 : micro_batches * 4 - 1)
                    << "the newest stays";
                EXPECT_EQ(stored.on_host, in_flight * 4 * width * sizeof(float));
            }
}

TEST(OffloadedActivations, TakeNoMemoryOfTheDeviceHoweverManyThereAre) {
    for (const int in_flight : {1, 3}) {
        const auto peak = [&](bool stores, int layers) {
            return outcome_of({.stores = stores, .in_flight = in_flight, .layers = layers}).peak;
        };
        EXPECT_EQ(peak(true, 8), peak(true, 4)) << in_flight;
        EXPECT_EQ(peak(false, 8) - peak(false, 4), in_flight * 4 * width * sizeof(float))
            << in_flight;
    }
}

TEST(OffloadedActivationsMutants, EveryForgottenCopyIsSeen) {
    const std::vector<float> expected = outcome_of({.stores = false}).dx;
    for (const int in_flight : {1, 3}) {
        const Case sound{.in_flight = in_flight};
        const Outcome outcome = outcome_of(sound);
        for (int n = 0; n < outcome.to_host.copies; ++n) {
            const bool is_taken_here =
                in_flight == 1 ? n % 4 == 3 : n + 1 == outcome.to_host.copies;
            Case mutant = sound;
            mutant.to_host.faults.forgotten = n;
            EXPECT_EQ(outcome_of(mutant).dx == expected, is_taken_here)
                << in_flight << " in flight, copy to the host " << n;
        }
        for (int n = 0; n < outcome.to_device.copies; ++n) {
            Case mutant = sound;
            mutant.to_device.faults.forgotten = n;
            EXPECT_NE(outcome_of(mutant).dx, expected)
                << in_flight << " in flight, copy to the device " << n;
        }
    }
}

TEST(OffloadedActivationsMutants, EveryForgottenWaitIsSeen) {
    const std::vector<float> expected = outcome_of({.stores = false}).dx;
    for (const int in_flight : {1, 3}) {
        // Copies too late for who does not wait for them, or too early where they wait for nobody.
        const Case late{.in_flight = in_flight}, early{.in_flight = in_flight,
                                                       .to_host = {.time = CopyTime::early},
                                                       .to_device = {.time = CopyTime::early}};
        const Outcome outcome = outcome_of(late);
        for (int n = 0; n < outcome.to_host.holds; ++n) {
            Case mutant = late;
            mutant.to_host.faults.forgotten_hold = n;
            EXPECT_NE(outcome_of(mutant).dx, expected)
                << in_flight << " in flight: memory is used again before copy " << n;
        }
        for (int n = 0; n < outcome.to_device.holds; ++n) {
            Case mutant = late;
            mutant.to_device.faults.forgotten_hold = n;
            EXPECT_NE(outcome_of(mutant).dx, expected)
                << in_flight << " in flight: read before copy " << n << " has come";
        }
        for (int n = 0; n < outcome.to_host.waits; ++n) {
            const bool is_taken_here = in_flight == 1 ? n % 4 == 3 : n + 1 == outcome.to_host.waits;
            Case mutant = early;
            mutant.to_host.faults.forgotten_wait = n;
            EXPECT_EQ(outcome_of(mutant).dx == expected, is_taken_here)
                << in_flight << " in flight: copy " << n << " leaves before it is made";
        }
        for (int n = 0; n < outcome.to_device.waits; ++n) {
            // Of the two that come when a backward pass begins, the first has waited for both. The
            // last micro-batch has its first one here.
            const bool has_waited = in_flight > 1 && n < 4 * (micro_batches - 1) && n % 4 == 1;
            Case mutant = early;
            mutant.to_device.faults.forgotten_wait = n;
            EXPECT_EQ(outcome_of(mutant).dx == expected, has_waited)
                << in_flight << " in flight: copy " << n << " comes into memory in use";
        }
    }
}

/// True if what is made after a layer has failed in its backward pass, while the input of the one
/// before it comes, has the elements that it was given.
bool has_its_elements_after_a_failure(const EngineFaults& faults) {
    constexpr int layers = 4;
    Passes passes({.layers = layers, .to_device = {.faults = faults}, .fails_at = layers});
    expect_error(
        ErrorKind::internal, [&] { passes.run(); }, "this layer fails");
    passes.drop();
    const std::vector<float> values(width, 3.0f);
    std::vector<Tensor> made;
    for (int i = 0; i < 32; ++i)  // more than there are free blocks
        made.push_back(passes.tensor(values));
    passes.finish();
    for (const Tensor& tensor : made)
        for (int64_t i = 0; i < width; ++i)
            if (passes.elements(tensor.in().data)[i] != 3.0f) return false;
    return true;
}

TEST(OffloadedActivations, ACopyThatNobodyTakesHurtsNobody) {
    EXPECT_TRUE(has_its_elements_after_a_failure({}));
    EXPECT_FALSE(has_its_elements_after_a_failure({.does_not_hold = true})) << "a mutant";
}

/// Copies that are under way until someone waits.
class PendingCopies final : public CopyEngine {
  public:
    PendingCopies(int& pending, bool waits) : pending_(pending), waits_(waits) {}
    void wait_for_stream() override {}
    void copy(void*, const void*, size_t) override { ++pending_; }
    void hold_stream() override {}
    std::unique_ptr<DeviceEvent> record() override { return nullptr; }
    void synchronize() override {
        if (waits_) pending_ = 0;
    }

  private:
    int& pending_;
    bool waits_;
};

/// Host memory that counts the blocks which come back while copies are under way.
class WatchedHostMemory final : public MemorySource {
  public:
    explicit WatchedHostMemory(const int& pending) : pending_(pending) {}
    Device device() const override { return {}; }
    void* allocate(size_t bytes) override { return host_memory().allocate(bytes); }
    void free(void* block, size_t bytes) override {
        if (pending_ > 0) ++freed_too_early;
        host_memory().free(block, bytes);
    }
    int freed_too_early = 0;

  private:
    const int& pending_;
};

TEST(OffloadedActivations, TheEndOfTheStoreWaitsForCopies) {
    CachingAllocator allocator(host_memory());
    for (const bool waits : {true, false}) {
        int pending = 0;
        WatchedHostMemory host(pending);
        {
            ActivationStore store(host,
                                  {.to_host = std::make_unique<PendingCopies>(pending, waits),
                                   .to_device = std::make_unique<PendingCopies>(pending, waits)});
            const core::Tape tape;
            store.keep(Tensor::empty({width}, DType::f32, allocator), tape);
            EXPECT_EQ(pending, 1);
        }
        EXPECT_EQ(host.freed_too_early, waits ? 0 : 1);
    }
}

}  // namespace
}  // namespace plinth::test
