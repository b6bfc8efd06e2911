// SPDX-License-Identifier: Apache-2.0
#include "core/data/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>

#include "core/data/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_dataset.h"

namespace plinth::core::data {
namespace {

using test::expect_error;

constexpr int64_t kWindow = 16;

/// Token t of the source is t itself, and every 5 tokens are a document; reads take an uneven time.
class CountingSource final : public Source {
  public:
    explicit CountingSource(std::string name, int64_t fails_at = -1)
        : name_(std::move(name)), fails_at_(fails_at) {}

    BlendSource describe() const override { return {.name = name_, .units = 10000}; }
    void fill(const SampleRef& ref, bool document_mask, const SampleView& view) const override {
        REQUIRE(io, ref.sample != fails_at_, "sample {} cannot be read", ref.sample);
        std::this_thread::sleep_for(std::chrono::microseconds(ref.sample * 37 % 101));
        {
            const std::lock_guard lock(mutex_);
            read_.insert(ref.sample);
        }
        for (size_t t = 0; t < view.inputs.size(); ++t) {
            const auto token = static_cast<int32_t>(ref.unit + static_cast<int64_t>(t));
            view.inputs[t] = token;
            view.targets[t] = t % 4 == 3 ? kIgnoredTarget : token + 1;
            view.positions[t] = static_cast<int32_t>(document_mask ? t % 5 : t);
            view.document_ids[t] = static_cast<int32_t>(document_mask ? t / 5 : 0);
        }
    }
    std::multiset<int64_t> read() const {
        const std::lock_guard lock(mutex_);
        return read_;
    }

  private:
    std::string name_;
    int64_t fails_at_;
    mutable std::mutex mutex_;
    mutable std::multiset<int64_t> read_;
};

struct Fixture {
    std::shared_ptr<CountingSource> source;
    std::shared_ptr<const Sampler> sampler;

    explicit Fixture(int64_t fails_at = -1, std::vector<SkipRange> skips = {})
        : source(std::make_shared<CountingSource>("s", fails_at)) {
        SamplerState state = start_sampling(5, kWindow, {source->describe()});
        set_skips(state, std::move(skips));
        sampler = std::make_shared<Sampler>(std::move(state));
    }
    Loader loader(NextRequest next, LoaderConfig config = {}) const {
        return Loader({source}, sampler, config, std::move(next));
    }
};

/// `count` requests of two samples, one after the other.
NextRequest in_a_row(int64_t count) {
    return [count, i = int64_t{0}]() mutable -> std::optional<MicroBatchRequest> {
        if (i == count) return std::nullopt;
        const int64_t k = i++;
        return MicroBatchRequest{.step = k / 4, .slot = k % 4, .first = 2 * k, .samples = 2};
    };
}

TEST(Loader, GivesEveryRequestInOrderWhateverTheThreads) {
    for (const int threads : {1, 2, 7})
        for (const int depth : {1, 3, 32}) {
            const Fixture fixture;
            Loader loader = fixture.loader(in_a_row(60), {.threads = threads, .depth = depth});
            for (int64_t k = 0; k < 60; ++k) {
                const auto batch = loader.next();
                ASSERT_TRUE(batch);
                EXPECT_EQ(batch->step, k / 4);
                EXPECT_EQ(batch->slot, k % 4);
                EXPECT_EQ(batch->rows, 2);
                EXPECT_EQ(batch->length, kWindow);
                EXPECT_EQ(batch->sample_ids, (std::vector<int64_t>{2 * k, 2 * k + 1}));
                EXPECT_EQ(batch->loss_tokens, 2 * kWindow * 3 / 4);
                for (int64_t row = 0; row < 2; ++row)
                    for (int64_t t = 0; t < kWindow; ++t) {
                        const auto at = static_cast<size_t>(row * kWindow + t);
                        EXPECT_EQ(batch->inputs[at], fixture.sampler->locate(2 * k + row).unit + t);
                        EXPECT_EQ(batch->positions[at], t);
                        EXPECT_EQ(batch->document_ids[at], 0);
                    }
            }
            EXPECT_FALSE(loader.next());
            EXPECT_FALSE(loader.next());
        }
}

TEST(Loader, ReadsAheadButNoFurtherThanItsDepth) {
    const Fixture fixture;
    Loader loader = fixture.loader(in_a_row(1000), {.threads = 2, .depth = 5});
    loader.next();
    std::set<int64_t> expected;
    for (int64_t sample = 0; sample < 12; ++sample)
        expected.insert(sample);
    for (int tries = 0; tries < 1000 && fixture.source->read().size() < 12; ++tries)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto read = fixture.source->read();
    EXPECT_EQ(std::set<int64_t>(read.begin(), read.end()), expected);
    EXPECT_EQ(read.size(), 12u);  // each once
}

/// The samples that ranks read over some steps whose batch grows, by their slots.
std::multiset<int64_t> samples_read(int ranks,
                                    const std::function<int64_t(int, int64_t)>& slot_of) {
    const Fixture fixture;
    for (int rank = 0; rank < ranks; ++rank) {
        const auto plan = [&](int64_t step) -> std::optional<StepSlots> {
            if (step == 6) return std::nullopt;
            // Four slots a step; micro-batch 1 in steps 0 to 2, then 3.
            StepSlots slots{.first = step < 3 ? 4 * step : 12 + 12 * (step - 3),
                            .micro_batch = step < 3 ? 1 : 3};
            for (int64_t i = 0; i < 4 / ranks; ++i)
                slots.slots.push_back(slot_of(rank, i));
            return slots;
        };
        Loader loader = fixture.loader(requests_of(plan, 0));
        while (loader.next()) {
        }
    }
    return fixture.source->read();
}

TEST(Loader, RanksTogetherReadEachSampleOnceThroughABatchRamp) {
    std::multiset<int64_t> expected;
    for (int64_t sample = 0; sample < 48; ++sample)
        expected.insert(sample);
    const auto one = [](int, int64_t i) { return i; };
    const auto blocks = [](int rank, int64_t i) { return 2 * rank + i; };
    const auto rounds = [](int rank, int64_t i) { return rank + 2 * i; };
    EXPECT_EQ(samples_read(1, one), expected);
    EXPECT_EQ(samples_read(2, blocks), expected);
    EXPECT_EQ(samples_read(2, rounds), expected);
    const auto mutant = [](int rank, int64_t i) { return rank + i; };
    EXPECT_NE(samples_read(2, mutant), expected);
}

TEST(Loader, SkippedSamplesAreLeftOut) {
    const Fixture fixture(-1, {{3, 9}});
    Loader loader = fixture.loader(in_a_row(3));
    EXPECT_EQ(loader.next()->sample_ids, (std::vector<int64_t>{0, 1}));
    EXPECT_EQ(loader.next()->sample_ids, (std::vector<int64_t>{2, 9}));
    EXPECT_EQ(loader.next()->sample_ids, (std::vector<int64_t>{10, 11}));
}

TEST(Loader, ShorterRowsCutTheSameWindow) {
    const Fixture fixture;
    const auto request = [](int64_t length) {
        return [length, done = false]() mutable -> std::optional<MicroBatchRequest> {
            if (std::exchange(done, true)) return std::nullopt;
            return MicroBatchRequest{.first = 6, .samples = 2, .length = length};
        };
    };
    for (const bool mask : {false, true}) {
        const LoaderConfig config{.document_mask = mask};
        const auto whole = fixture.loader(request(0), config).next();
        const auto cut = fixture.loader(request(8), config).next();
        EXPECT_EQ(cut->rows, 4);
        EXPECT_EQ(cut->length, 8);
        EXPECT_EQ(cut->inputs, whole->inputs);
        EXPECT_EQ(cut->targets, whole->targets);
        EXPECT_EQ(cut->sample_ids, (std::vector<int64_t>{12, 13, 14, 15}));
        const std::vector<int32_t> row(cut->positions.begin() + 8, cut->positions.begin() + 16);
        const std::vector<int32_t> ids(cut->document_ids.begin() + 8,
                                       cut->document_ids.begin() + 16);
        if (mask) {
            EXPECT_EQ(row, (std::vector<int32_t>{0, 1, 0, 1, 2, 3, 4, 0}));
            EXPECT_EQ(ids, (std::vector<int32_t>{0, 0, 1, 1, 1, 1, 1, 2}));
        } else {
            EXPECT_EQ(row, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
            EXPECT_EQ(ids, std::vector<int32_t>(8, 0));
        }
    }
}

TEST(Loader, PaddedLengthsDoubleUpToTheWindow) {
    EXPECT_EQ(padded_length(1, 1024), 64);
    EXPECT_EQ(padded_length(64, 1024), 64);
    EXPECT_EQ(padded_length(65, 1024), 128);
    EXPECT_EQ(padded_length(513, 1024), 1024);
    EXPECT_EQ(padded_length(200, 200), 200);
    EXPECT_EQ(padded_length(20, 48), 48);
}

/// Four examples of 11, 71, 3 and 201 tokens: tokens count up from 1000 times their number.
std::shared_ptr<const ExampleSource> four_examples() {
    std::vector<Example> examples;
    for (const int32_t length : {11, 71, 3, 201}) {
        Example example;
        for (int32_t t = 0; t < length; ++t)
            example.tokens.push_back(1000 * static_cast<int32_t>(examples.size()) + t);
        example.is_label.assign(example.tokens.size(), 1);
        examples.push_back(std::move(example));
    }
    return std::make_shared<const ExampleSource>("e", std::move(examples), 256, -1);
}

TEST(Loader, CutsThePaddingThatExamplesShare) {
    const auto source = four_examples();
    const auto sampler = std::make_shared<Sampler>(start_sampling(5, 256, {source->describe()}));
    std::multiset<std::vector<int64_t>> lengths;
    Loader loader({source}, sampler, {.document_mask = true}, in_a_row(2));
    for (int k = 0; k < 2; ++k) {
        const auto batch = loader.next();
        std::vector<int64_t> used;
        for (size_t row = 0; row < 2; ++row) {
            const int64_t unit = batch->samples[row].unit;
            used.push_back(
                static_cast<int64_t>(source->examples()[static_cast<size_t>(unit)].tokens.size()) -
                1);
            for (int64_t t = 0; t < batch->length; ++t) {
                const size_t at = row * static_cast<size_t>(batch->length) + static_cast<size_t>(t);
                const bool is_padding = t >= used.back();
                EXPECT_EQ(batch->inputs[at], is_padding ? -1 : 1000 * unit + t);
                EXPECT_EQ(batch->targets[at], is_padding ? kIgnoredTarget : 1000 * unit + t + 1);
                EXPECT_EQ(batch->positions[at], t);
                EXPECT_EQ(batch->document_ids[at], is_padding ? kPaddingDocument : 0);
            }
        }
        EXPECT_EQ(batch->length, padded_length(std::max(used[0], used[1]), 256));
        EXPECT_EQ(batch->inputs.size(), 2 * static_cast<size_t>(batch->length));
        EXPECT_EQ(batch->loss_tokens, used[0] + used[1]);
        std::sort(used.begin(), used.end());
        lengths.insert(used);
    }
    EXPECT_EQ(lengths.size(), 2u);
}

TEST(Loader, CutsNoPaddingOfABlendWithWindows) {
    const auto examples = four_examples();
    const auto windows = std::make_shared<CountingSource>("s");
    BlendSource rare = examples->describe();
    rare.weight = 1;
    BlendSource often = windows->describe();
    often.weight = 1;
    const auto sampler = std::make_shared<Sampler>(start_sampling(5, 256, {rare, often}));
    Loader loader({examples, windows}, sampler, {}, in_a_row(4));
    for (int k = 0; k < 4; ++k) {
        const auto batch = loader.next();
        if (batch->samples[0].source != batch->samples[1].source) {
            EXPECT_EQ(batch->length, 256);
        }
    }
}

TEST(Loader, AReadersErrorArrivesInItsPlace) {
    for (const int threads : {1, 4}) {
        const Fixture fixture(9);  // in the fifth micro-batch
        Loader loader = fixture.loader(in_a_row(100), {.threads = threads, .depth = 8});
        for (int k = 0; k < 4; ++k)
            EXPECT_EQ(loader.next()->sample_ids[0], 2 * k);
        for (int again = 0; again < 2; ++again)
            expect_error(
                ErrorKind::io, [&] { loader.next(); }, "sample 9 cannot be read");
    }
    const Fixture fixture;
    Loader loader =
        fixture.loader([]() -> std::optional<MicroBatchRequest> { FAIL(config, "no such step"); });
    expect_error(
        ErrorKind::config, [&] { loader.next(); }, "no such step");
}

TEST(Loader, StopsAtAnyTime) {
    const Fixture fixture;
    for (int consumed = 0; consumed < 30; ++consumed) {
        Loader loader = fixture.loader(in_a_row(20), {.threads = 3, .depth = 4});
        for (int k = 0; k < consumed; ++k)
            loader.next();
    }
}

TEST(Loader, SourcesAreMatchedByNameAndContent) {
    const auto a = std::make_shared<CountingSource>("a");
    const auto b = std::make_shared<CountingSource>("b");
    const auto make = [&](SamplerState state, std::vector<std::shared_ptr<const Source>> sources) {
        return Loader(sources, std::make_shared<Sampler>(std::move(state)), {}, in_a_row(100));
    };
    SamplerState state = start_sampling(5, kWindow, {a->describe(), b->describe()});
    expect_error(
        ErrorKind::config, [&] { make(state, {b}); }, "'a'", "not there");
    SamplerState changed = state;
    changed.sources[1].units = 9999;
    expect_error(
        ErrorKind::config,
        [&] {
            make(changed, {b, a});
        },
        "'b'", "10000", "9999");
    Loader loader = make(state, {b, a});
    while (loader.next()) {
    }
    EXPECT_EQ(a->read().size() + b->read().size(), 200u);
    EXPECT_EQ(a->read().size(), 100u);
    state.consumed = 50;
    set_skips(state, {{50, 60}});
    reblend(state, {b->describe()});  // from here on `a` need not be there
    EXPECT_NO_THROW(make(state, {b}));
    expect_error(
        ErrorKind::config, [] { LoaderConfig{.threads = 0}.validate(); }, "256 threads");
}

TEST(Loader, ReadsAPreparedFolder) {
    test::TemporaryFolder folder;
    std::vector<std::vector<int32_t>> documents;
    for (int d = 0; d < 100; ++d) {
        documents.emplace_back(static_cast<size_t>(1 + d % 37));
        std::iota(documents.back().begin(), documents.back().end(), 1);
    }
    test::write_dataset(folder.path(), "text", 50, {documents, documents});
    const auto dataset = Dataset::open(io::posix(), folder.path(), "train");
    const auto sampler = std::make_shared<Sampler>(start_sampling(1, 32, {dataset->describe()}));
    Loader loader({dataset}, sampler, {.document_mask = true}, in_a_row(200));
    int64_t starts = 0;
    while (const auto batch = loader.next()) {
        EXPECT_EQ(batch->loss_tokens, 64);
        for (size_t i = 0; i + 1 < batch->inputs.size(); ++i) {
            if (i % 32 == 31) continue;
            EXPECT_EQ(batch->targets[i], batch->inputs[i + 1]);
            const bool begins = batch->inputs[i + 1] == 1;  // each document counts up from 1
            EXPECT_EQ(batch->document_ids[i + 1] - batch->document_ids[i], begins ? 1 : 0);
            EXPECT_EQ(batch->positions[i + 1], begins ? 0 : batch->positions[i] + 1);
            starts += begins;
        }
    }
    EXPECT_GT(starts, 300);
}

}  // namespace
}  // namespace plinth::core::data
