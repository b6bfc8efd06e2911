// SPDX-License-Identifier: Apache-2.0
#include "core/data/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/runtime/error.h"
#include "kernels/runtime/philox.h"

namespace plinth::core::data {
namespace {

constexpr int64_t kBlock = Sampler::kBlock;
constexpr int64_t kDenominator = int64_t{1} << 24;  // of the fractions u_s

uint64_t mix(uint64_t value) {
    return RandomKey::mix(value);
}

// Purposes of the hashes of (seed, source, epoch), so that they are independent.
constexpr uint64_t kShuffle = 1, kPhase = 2;

uint64_t hash(uint64_t seed, uint64_t purpose, int64_t source, int64_t epoch) {
    const uint64_t place = mix(mix(seed) + purpose);
    return mix(mix(place + static_cast<uint64_t>(source)) + static_cast<uint64_t>(epoch));
}

/// The numerator of u_s = hash(seed, name) / 2^24: FNV-1a of the name, mixed with the seed.
int64_t offset_of(uint64_t seed, const std::string& name) {
    uint64_t text = 0xcbf29ce484222325ull;
    for (const char c : name)
        text = (text ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    return static_cast<int64_t>(mix(mix(seed) ^ text) % kDenominator);
}

void check_units(const BlendSource& source, int64_t window) {
    REQUIRE(
        config, source.examples || source.units >= window,
        "source '{}' has {} tokens, fewer than one sequence of {}: give it more text or shorten "
        "the sequence",
        source.name, source.units, window);
    REQUIRE(config, source.units >= 1, "source '{}' has no examples", source.name);
}

/// By name, so that the order in which the blend was written means nothing.
void sort_blend(std::vector<BlendSource>& blend) {
    REQUIRE(config, !blend.empty(), "the blend names no source");
    std::sort(blend.begin(), blend.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    for (size_t i = 1; i < blend.size(); ++i)
        REQUIRE(config, blend[i].name != blend[i - 1].name, "source '{}' is in the blend twice",
                blend[i].name);
}

/// The source's number; a new name gets the next one.
size_t number_of(SamplerState& state, const BlendSource& source) {
    check_units(source, state.window);
    for (size_t s = 0; s < state.sources.size(); ++s) {
        const SourceRecord& known = state.sources[s];
        if (known.name != source.name) continue;
        REQUIRE(config,
                known.units == source.units && known.examples == source.examples &&
                    known.fingerprint == source.fingerprint,
                "source '{}' has changed since this run first read it ({} units, fingerprint '{}'; "
                "now {}, '{}'): restore it, or give the new content a new name",
                source.name, known.units, known.fingerprint, source.units, source.fingerprint);
        return s;
    }
    state.sources.push_back({source.name, source.units, source.examples, source.fingerprint});
    return state.sources.size() - 1;
}

/// Shares by source number; the weights are added in the order of the names.
std::vector<int64_t> shares_of(SamplerState& state, const std::vector<BlendSource>& blend) {
    std::vector<double> weights;
    std::vector<size_t> numbers;
    for (const BlendSource& source : blend) {
        REQUIRE(config, std::isfinite(source.weight) && source.weight > 0,
                "source '{}': the weight must be positive, got {}", source.name, source.weight);
        weights.push_back(source.weight);
        numbers.push_back(number_of(state, source));
    }
    const std::vector<int64_t> dense = integer_shares(weights);
    std::vector<int64_t> shares(state.sources.size(), 0);
    for (size_t i = 0; i < blend.size(); ++i)
        shares[numbers[i]] = dense[i];
    return shares;
}

/// The number of the sample trained on after `count` others.
int64_t leave_out(int64_t count, std::span<const SkipRange> skips) {
    int64_t sample = count;
    for (const SkipRange& skip : skips) {
        if (skip.begin > sample) break;
        sample += skip.end - skip.begin;
    }
    return sample;
}

/// The parts of the ranges below `limit`.
std::vector<SkipRange> below(std::span<const SkipRange> skips, int64_t limit) {
    std::vector<SkipRange> parts;
    for (const SkipRange& skip : skips)
        if (skip.begin < limit) parts.push_back({skip.begin, std::min(skip.end, limit)});
    return parts;
}

}  // namespace

std::vector<int64_t> integer_shares(std::span<const double> weights) {
    const auto count = static_cast<int64_t>(weights.size());
    REQUIRE(config, count >= 1 && count <= kBlock, "a blend of {} sources: 1 to {} are possible",
            count, kBlock);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<double> quotas;
    std::vector<int64_t> shares;
    for (const double weight : weights) {
        quotas.push_back(weight / sum * static_cast<double>(kBlock));
        shares.push_back(std::max<int64_t>(1, static_cast<int64_t>(std::floor(quotas.back()))));
    }
    const auto error = [&](size_t s) { return quotas[s] - static_cast<double>(shares[s]); };
    int64_t missing = kBlock - std::accumulate(shares.begin(), shares.end(), int64_t{0});
    while (missing != 0) {
        // One at a time to the share that is most below (or above) its quota. A share that was
        // raised to 1 is above its quota already and takes nothing from others but this.
        const int64_t step = missing > 0 ? 1 : -1;
        size_t best = weights.size();
        for (size_t s = 0; s < shares.size(); ++s) {
            if (step < 0 && shares[s] == 1) continue;
            if (best == weights.size() ||
                (step > 0 ? error(s) > error(best) : error(s) < error(best)))
                best = s;
        }
        shares[best] += step;
        missing -= step;
    }
    return shares;
}

int64_t permuted(int64_t index, int64_t size, uint64_t key) {
    CHECK(index >= 0 && index < size, "{} of a permutation of {}", index, size);
    const int width = std::bit_width(static_cast<uint64_t>(size - 1));
    const int half = std::max(8, width + (width & 1)) / 2;
    const uint64_t mask = (uint64_t{1} << half) - 1;
    std::array<uint64_t, 8> keys;
    for (uint64_t round = 0; round < keys.size(); ++round)
        keys[round] = mix(key + round);
    auto value = static_cast<uint64_t>(index);
    do {
        uint64_t left = value >> half, right = value & mask;
        for (const uint64_t round_key : keys) {
            const uint64_t next = left ^ (mix(right ^ round_key) & mask);
            left = right;
            right = next;
        }
        value = (left << half) | right;
    } while (value >= static_cast<uint64_t>(size));
    return static_cast<int64_t>(value);
}

SamplerState start_sampling(uint64_t seed, int64_t window, std::vector<BlendSource> blend) {
    REQUIRE(config, window >= 1, "the sequence length must be positive, got {}", window);
    sort_blend(blend);
    SamplerState state{.seed = seed, .window = window};
    BlendSegment first;
    first.shares = shares_of(state, blend);
    first.base.assign(first.shares.size(), 0);
    state.segments.push_back(std::move(first));
    return state;
}

void reblend(SamplerState& state, std::vector<BlendSource> blend) {
    sort_blend(blend);
    const Sampler before(state);
    const int64_t start = before.sample_at(state.consumed);
    BlendSegment next{.start = start, .base = before.counts_before(start)};
    next.shares = shares_of(state, blend);
    next.base.resize(next.shares.size(), 0);
    if (next.shares == state.segments.back().shares) return;
    // A blend that was never used leaves no trace.
    if (state.segments.back().start == start) state.segments.pop_back();
    state.segments.push_back(std::move(next));
}

void set_skips(SamplerState& state, std::vector<SkipRange> skips) {
    std::sort(skips.begin(), skips.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    std::vector<SkipRange> joined;
    for (const SkipRange& skip : skips) {
        REQUIRE(config, skip.begin >= 0 && skip.begin < skip.end,
                "data.skip: [{}, {}) is no range of samples", skip.begin, skip.end);
        if (!joined.empty() && skip.begin <= joined.back().end)
            joined.back().end = std::max(joined.back().end, skip.end);
        else
            joined.push_back(skip);
    }
    const int64_t past = state.consumed > 0 ? leave_out(state.consumed - 1, state.skips) + 1 : 0;
    REQUIRE(config, below(joined, past) == below(state.skips, past),
            "data.skip: the list differs from the run's below sample {}, which was trained on "
            "already: resume from a checkpoint before the first difference",
            past);
    state.skips = std::move(joined);
}

struct Sampler::Table {
    std::once_flag once;
    std::vector<Entry> entries;
};

Sampler::Sampler(SamplerState state) : state_(std::move(state)) {
    REQUIRE(data,
            state_.window >= 1 && state_.consumed >= 0 && !state_.segments.empty() &&
                state_.segments.front().start == 0,
            "the sampler's state is damaged: window {}, {} consumed, {} segments", state_.window,
            state_.consumed, state_.segments.size());
    for (size_t i = 0; i < state_.segments.size(); ++i) {
        BlendSegment& segment = state_.segments[i];
        const int64_t sum =
            std::accumulate(segment.shares.begin(), segment.shares.end(), int64_t{0});
        const bool negative = std::any_of(segment.shares.begin(), segment.shares.end(),
                                          [](int64_t share) { return share < 0; });
        REQUIRE(data,
                sum == kBlock && !negative && segment.base.size() == segment.shares.size() &&
                    segment.shares.size() <= state_.sources.size() &&
                    (i == 0 || segment.start > state_.segments[i - 1].start),
                "the sampler's state is damaged: segment {} starts at sample {} with shares that "
                "add up to {}",
                i, segment.start, sum);
        tables_.push_back(std::make_unique<Table>());
    }
}
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
Sampler::~Sampler() = default;

int64_t Sampler::sample_at(int64_t count) const {
    return leave_out(count, state_.skips);
}

size_t Sampler::segment_of(int64_t sample) const {
    const auto after =
        std::upper_bound(state_.segments.begin(), state_.segments.end(), sample,
                         [](int64_t s, const BlendSegment& segment) { return s < segment.start; });
    return static_cast<size_t>(after - state_.segments.begin()) - 1;
}

/// The order of sources within a block: entry (s, k) stands at (k + u_s) / a_s, compared by cross
/// multiplication, which stays below 2^57.
const std::vector<Sampler::Entry>& Sampler::table(size_t segment) const {
    Table& table = *tables_[segment];
    std::call_once(table.once, [&] {
        const std::vector<int64_t>& shares = state_.segments[segment].shares;
        std::vector<int64_t> offsets;
        for (const SourceRecord& source : state_.sources)
            offsets.push_back(offset_of(state_.seed, source.name));
        table.entries.reserve(static_cast<size_t>(kBlock));
        for (size_t s = 0; s < shares.size(); ++s)
            for (int64_t k = 0; k < shares[s]; ++k)
                table.entries.push_back({static_cast<int32_t>(s), static_cast<int32_t>(k)});
        std::sort(table.entries.begin(), table.entries.end(), [&](Entry a, Entry b) {
            const auto i = static_cast<size_t>(a.source), j = static_cast<size_t>(b.source);
            const int64_t left = (a.k * kDenominator + offsets[i]) * shares[j];
            const int64_t right = (b.k * kDenominator + offsets[j]) * shares[i];
            if (left != right) return left < right;
            return a.source != b.source ? a.source < b.source : a.k < b.k;
        });
    });
    return table.entries;
}

int64_t Sampler::epoch_size(int64_t source) const {
    const SourceRecord& record = state_.sources[static_cast<size_t>(source)];
    return record.examples ? record.units : record.units / state_.window;
}

SampleRef Sampler::locate(int64_t sample) const {
    CHECK(sample >= 0, "sample {}", sample);
    const size_t index = segment_of(sample);
    const BlendSegment& segment = state_.segments[index];
    const int64_t place = sample - segment.start;
    const Entry entry = table(index)[static_cast<size_t>(place % kBlock)];
    const auto s = static_cast<size_t>(entry.source);

    SampleRef ref{.sample = sample, .source = entry.source};
    ref.ordinal = segment.base[s] + place / kBlock * segment.shares[s] + entry.k;
    const int64_t size = epoch_size(ref.source);
    ref.epoch = ref.ordinal / size;
    const uint64_t key = hash(state_.seed, kShuffle, ref.source, ref.epoch);
    const int64_t window = permuted(ref.ordinal % size, size, key);
    if (state_.sources[s].examples) {
        ref.unit = window;
        return ref;
    }
    // The windows of an epoch leave a rest near the seam unread; the phase moves the seam.
    const auto phase = static_cast<int64_t>(hash(state_.seed, kPhase, ref.source, ref.epoch) %
                                            static_cast<uint64_t>(state_.window));
    ref.unit = (phase + window * state_.window) % state_.sources[s].units;
    return ref;
}

std::vector<int64_t> Sampler::counts_before(int64_t sample) const {
    const size_t index = segment_of(sample);
    const BlendSegment& segment = state_.segments[index];
    const int64_t place = sample - segment.start;
    std::vector<int64_t> counts = segment.base;
    counts.resize(state_.sources.size(), 0);
    for (size_t s = 0; s < segment.shares.size(); ++s)
        counts[s] += place / kBlock * segment.shares[s];
    const auto& entries = table(index);
    for (int64_t r = 0; r < place % kBlock; ++r)
        ++counts[static_cast<size_t>(entries[static_cast<size_t>(r)].source)];
    return counts;
}

}  // namespace plinth::core::data
