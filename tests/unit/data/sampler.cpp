// SPDX-License-Identifier: Apache-2.0
#include "core/data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>

#include "tests/support/expect_error.h"

namespace plinth::core::data {
namespace {

using test::expect_error;

std::vector<BlendSource> blend() {
    return {{.name = "prose", .weight = 0.5, .units = 7001},
            {.name = "code", .weight = 0.3, .units = 5003},
            {.name = "tasks", .weight = 0.2, .units = 77, .examples = true}};
}

/// What a data order must do, over whatever gives it: so that broken orders can be shown to fail.
using Locate = std::function<SampleRef(int64_t)>;

/// Each source gives its samples 0, 1, 2, ... one after the other.
bool ordinals_are_consecutive(const Locate& locate, int64_t samples) {
    std::map<int64_t, int64_t> next;
    for (int64_t i = 0; i < samples; ++i) {
        const SampleRef ref = locate(i);
        if (ref.ordinal != next[ref.source]++) return false;
    }
    return true;
}

/// Each epoch of each source holds each window once, spaced by the window and cut at one phase.
bool epochs_cover_every_window(const Locate& locate, const Sampler& sampler, int64_t samples) {
    std::map<std::pair<int64_t, int64_t>, std::multiset<int64_t>> units;
    for (int64_t i = 0; i < samples; ++i) {
        const SampleRef ref = locate(i);
        units[{ref.source, ref.epoch}].insert(ref.unit);
    }
    int64_t whole = 0;
    for (const auto& [place, found] : units) {
        const SourceRecord& source = sampler.state().sources[static_cast<size_t>(place.first)];
        const int64_t size = sampler.epoch_size(place.first);
        if (static_cast<int64_t>(found.size()) != size) continue;  // the epoch in progress
        ++whole;
        const int64_t step = source.examples ? 1 : sampler.state().window;
        std::set<int64_t> windows;
        for (const int64_t unit : found) {
            const int64_t phase = source.examples ? 0 : (*found.begin()) % step;
            // A window that begins before the seam keeps its phase; one may begin behind it.
            const int64_t straight = unit % step == phase ? unit : unit + source.units;
            windows.insert(straight / step);
        }
        if (static_cast<int64_t>(windows.size()) != size) return false;
    }
    return whole >= 3;
}

TEST(Sampler, EachSourceIsConsumedInOrderAndEachEpochCoversIt) {
    const Sampler sampler(start_sampling(1, 16, blend()));
    const Locate locate = [&](int64_t i) { return sampler.locate(i); };
    EXPECT_TRUE(ordinals_are_consecutive(locate, 200000));
    EXPECT_TRUE(epochs_cover_every_window(locate, sampler, 20000));
}

TEST(Sampler, BrokenOrdersAreCaught) {
    const Sampler sampler(start_sampling(1, 16, blend()));
    const Locate lost = [&](int64_t i) { return sampler.locate(i + (i >= 9000)); };
    EXPECT_FALSE(ordinals_are_consecutive(lost, 10000));
    const Locate repeated = [&](int64_t i) { return sampler.locate(i - (i >= 9000)); };
    EXPECT_FALSE(ordinals_are_consecutive(repeated, 10000));
    const Locate one_window_twice = [&](int64_t i) {
        SampleRef ref = sampler.locate(i);
        if (ref.ordinal % sampler.epoch_size(ref.source) == 5)
            ref.unit = sampler.locate(i - 1).unit;
        return ref;
    };
    EXPECT_FALSE(epochs_cover_every_window(one_window_twice, sampler, 20000));
    const Locate no_shuffle_key = [&](int64_t i) {  // drawn with replacement
        SampleRef ref = sampler.locate(i);
        ref.unit = permuted(ref.ordinal * 7919 % 50, 77, 3);
        return ref;
    };
    EXPECT_FALSE(epochs_cover_every_window(no_shuffle_key, sampler, 20000));
}

TEST(Sampler, GoldenVectors) {
    std::ifstream golden(PLINTH_SOURCE_DIR "/tests/golden/sampler.txt");
    ASSERT_TRUE(golden) << "tests/golden/sampler.txt is missing";
    SamplerState state{.seed = 1234, .window = 128};
    state.sources = {
        {"code", 1000003, false, ""}, {"prose", 70000, false, ""}, {"tasks", 500, true, ""}};
    state.segments = {{0, {0, 0, 0}, {40000, 25000, 536}}};
    const std::vector<int64_t> base = Sampler(state).counts_before(100000);
    state.segments.push_back({100000, base, {1, 65534, 1}});
    const Sampler sampler(state);
    int checked = 0;
    for (std::string line; std::getline(golden, line); ++checked) {
        std::istringstream words(line);
        std::string kind;
        words >> kind;
        if (kind == "permuted") {
            int64_t size, index, image;
            uint64_t key;
            char colon;
            words >> size >> key;
            while (words >> index >> colon >> image)
                EXPECT_EQ(permuted(index, size, key), image) << line;
        } else if (kind == "sample") {
            SampleRef expected;
            words >> expected.sample >> expected.source >> expected.ordinal >> expected.epoch >>
                expected.unit;
            EXPECT_EQ(sampler.locate(expected.sample), expected) << line;
        }
    }
    EXPECT_EQ(checked, 24);  // lines of the file
}

TEST(Sampler, PermutationIsOne) {
    for (const int64_t size : {1, 2, 3, 16, 17, 255, 256, 257, 1000, 65537}) {
        std::vector<bool> seen(static_cast<size_t>(size));
        for (int64_t i = 0; i < size; ++i) {
            const int64_t image = permuted(i, size, 5);
            ASSERT_TRUE(image >= 0 && image < size);
            ASSERT_FALSE(seen[static_cast<size_t>(image)]) << size << " " << i;
            seen[static_cast<size_t>(image)] = true;
        }
    }
    int equal = 0;
    for (int64_t i = 0; i < 1000; ++i)
        equal += permuted(i, 1000, 1) == permuted(i, 1000, 2);
    EXPECT_LT(equal, 15);  // one is expected by chance
}

TEST(Sampler, TheOrderOfTheBlendMeansNothing) {
    std::vector<BlendSource> order = blend();
    const SamplerState expected = start_sampling(9, 16, order);
    std::sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.units < b.units; });
    EXPECT_EQ(start_sampling(9, 16, order), expected);
    SamplerState state = expected;
    state.consumed = 1000;
    reblend(state, order);  // the same weights: no trace
    EXPECT_EQ(state.segments.size(), 1u);
}

TEST(Sampler, SharesAreTheLargestRemainders) {
    const auto shares = [](std::vector<double> weights) { return integer_shares(weights); };
    EXPECT_EQ(shares({3.5}), (std::vector<int64_t>{65536}));
    EXPECT_EQ(shares({1, 1, 1}), (std::vector<int64_t>{21846, 21845, 21845}));
    EXPECT_EQ(shares({0.5, 0.25, 0.25}), (std::vector<int64_t>{32768, 16384, 16384}));
    EXPECT_EQ(shares({1e-12, 1}), (std::vector<int64_t>{1, 65535}));
    EXPECT_EQ(shares({1.0 / 65536, 2.6 / 65536, 3.4 / 65536, 65529.0 / 65536}),
              (std::vector<int64_t>{1, 3, 3, 65529}));
    const auto many = shares(std::vector<double>(65536, 1.0));
    EXPECT_EQ(std::accumulate(many.begin(), many.end(), int64_t{0}), 65536);
    EXPECT_EQ(*std::min_element(many.begin(), many.end()), 1);
}

TEST(Sampler, AnyStretchHoldsEachSourceAtItsShare) {
    const Sampler sampler(start_sampling(3, 16, blend()));
    const auto& shares = sampler.state().segments[0].shares;
    for (const int64_t samples : {10, 100, 5000, 65536, 300000}) {
        const auto counts = sampler.counts_before(samples);
        for (size_t s = 0; s < shares.size(); ++s) {
            const double expected =
                static_cast<double>(samples) * static_cast<double>(shares[s]) / 65536.0;
            EXPECT_NEAR(static_cast<double>(counts[s]), expected, 3.0) << samples;
        }
    }
}

TEST(Sampler, ReblendingLosesAndRepeatsNothing) {
    SamplerState state = start_sampling(2, 16, blend());
    std::vector<BlendSource> next = blend();
    int64_t total = 0;
    for (const int64_t steps : {70001, 13, 65536, 1, 100000}) {
        state.consumed = total += steps;
        next[0].weight *= 1.7;
        if (steps == 13) next.push_back({.name = "added", .weight = 0.1, .units = 999});
        if (steps == 65536) next.erase(next.begin() + 1);
        if (steps == 1) next.push_back({.name = "code", .weight = 0.9, .units = 5003});
        reblend(state, next);
    }
    EXPECT_EQ(state.segments.size(), 6u);
    EXPECT_EQ(state.sources.size(), 4u);
    EXPECT_EQ(state.sources[3].name, "added");
    const Sampler sampler(state);
    const Locate locate = [&](int64_t i) { return sampler.locate(i); };
    EXPECT_TRUE(ordinals_are_consecutive(locate, total + 70000));
    // A mutant: the counts of the last segment's start are off by one.
    SamplerState wrong = state;
    ++wrong.segments.back().base[0];
    const Sampler broken(wrong);
    EXPECT_FALSE(
        ordinals_are_consecutive([&](int64_t i) { return broken.locate(i); }, total + 70000));
}

TEST(Sampler, ReblendingTwiceAtOnePlaceKeepsTheLast) {
    SamplerState state = start_sampling(2, 16, blend());
    state.consumed = 500;
    auto changed = blend();
    changed[0].weight = 2;
    reblend(state, changed);
    changed[0].weight = 3;
    reblend(state, changed);
    EXPECT_EQ(state.segments.size(), 2u);
    EXPECT_TRUE(ordinals_are_consecutive(
        [sampler = std::make_shared<Sampler>(state)](int64_t i) { return sampler->locate(i); },
        2000));
}

TEST(Sampler, SkipsLeaveSamplesOut) {
    SamplerState state = start_sampling(2, 16, blend());
    set_skips(state, {{100, 110}, {20, 25}, {25, 30}});
    EXPECT_EQ(state.skips, (std::vector<SkipRange>{{20, 30}, {100, 110}}));
    const Sampler sampler(state);
    std::vector<int64_t> expected;
    for (int64_t i = 0; i < 300; ++i)
        if (!(i >= 20 && i < 30) && !(i >= 100 && i < 110)) expected.push_back(i);
    for (size_t count = 0; count < expected.size(); ++count)
        EXPECT_EQ(sampler.sample_at(static_cast<int64_t>(count)), expected[count]);
}

TEST(Sampler, RewindingWithASkipEqualsAFreshRunWithIt) {
    SamplerState rewound = start_sampling(2, 16, blend());
    rewound.consumed = 1000;  // the checkpoint before the bad samples
    set_skips(rewound, {{1000, 1064}});
    auto changed = blend();
    changed[1].weight = 4;
    SamplerState fresh = start_sampling(2, 16, blend());
    set_skips(fresh, {{1000, 1064}});
    fresh.consumed = 1000;
    rewound.consumed = fresh.consumed = 1500;
    reblend(rewound, changed);
    reblend(fresh, changed);
    EXPECT_EQ(rewound, fresh);
    EXPECT_EQ(Sampler(fresh).sample_at(1000), 1064);
}

TEST(Sampler, ThePastIsNotSkipped) {
    SamplerState state = start_sampling(2, 16, blend());
    state.consumed = 1000;
    expect_error(
        ErrorKind::config,
        [&] {
            set_skips(state, {{999, 1100}});
        },
        "data.skip", "sample 1000");
    set_skips(state, {{1000, 1100}});
    state.consumed = 1200;
    set_skips(state, {{1000, 1100}, {1400, 1410}});
    expect_error(
        ErrorKind::config, [&] { set_skips(state, {}); }, "data.skip", "sample 1300");
    expect_error(
        ErrorKind::config,
        [&] {
            set_skips(state, {{5, 5}});
        },
        "[5, 5)");
}

TEST(Sampler, SampleTenToTheNineIsAsNearAsTheFirst) {
    const auto begin = std::chrono::steady_clock::now();
    const Sampler sampler(start_sampling(1, 2048,
                                         {{.name = "a", .weight = 1, .units = 1 << 30},
                                          {.name = "b", .weight = 2, .units = 1 << 29}}));
    for (int64_t i = 0; i < 1000; ++i)
        sampler.locate(1000000000 + i);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(seconds.count(), 1.0);  // about 10 ms; the benchmark measures it
}

TEST(Sampler, BadBlendsAreRefusedByName) {
    const auto refused = [](auto change, const auto&... parts) {
        auto sources = blend();
        change(sources);
        expect_error(
            ErrorKind::config, [&] { start_sampling(1, 16, sources); }, parts...);
    };
    refused([](auto& b) { b.clear(); }, "no source");
    refused([](auto& b) { b[1].weight = 0; }, "'code'", "positive");
    refused([](auto& b) { b[1].weight = NAN; }, "'code'", "positive");
    refused([](auto& b) { b[1].name = "prose"; }, "'prose'", "twice");
    refused([](auto& b) { b[0].units = 15; }, "'prose'", "15 tokens", "16");
    refused([](auto& b) { b[2].units = 0; }, "'tasks'", "no examples");
    SamplerState state = start_sampling(1, 16, blend());
    auto changed = blend();
    changed[0].fingerprint = "ff";
    expect_error(
        ErrorKind::config, [&] { reblend(state, changed); }, "'prose' has changed", "'ff'",
        "new name");
    SamplerState damaged = state;
    damaged.segments[0].shares[0] += 1;
    expect_error(
        ErrorKind::data, [&] { Sampler{damaged}; }, "damaged", "65537");
}

}  // namespace
}  // namespace plinth::core::data
