// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace plinth::core::data {

/// The sampler is a pure function from the number of a sample to where its tokens lie: there is no
/// index to build, save or load, and sample 10^9 is as near as sample 0. docs/data.md states every
/// formula; tests/golden/sampler.py is a second implementation.

/// What the blend offers: one source of training data.
struct BlendSource {
    std::string name;
    double weight = 1.0;      ///< any positive scale; its share of the samples
    int64_t units = 0;        ///< tokens, or examples
    bool examples = false;    ///< fine-tuning: one example is one sample
    std::string fingerprint;  ///< identity of the content; a change is refused
};

/// A source that the run has met. Its place in the list is its permanent number.
struct SourceRecord {
    std::string name;
    int64_t units = 0;
    bool examples = false;
    std::string fingerprint;
    bool operator==(const SourceRecord&) const = default;
};

/// From sample `start` on, each block of 65,536 samples holds shares[s] samples of source s.
struct BlendSegment {
    int64_t start = 0;
    std::vector<int64_t> base;    ///< samples of each source before `start`
    std::vector<int64_t> shares;  ///< sum 65,536; 0: the source is not in the blend
    bool operator==(const BlendSegment&) const = default;
};

/// Samples [begin, end) are left out.
struct SkipRange {
    int64_t begin = 0;
    int64_t end = 0;
    bool operator==(const SkipRange&) const = default;
};

/// All that a checkpoint must hold to continue the data.
struct SamplerState {
    uint64_t seed = 0;
    int64_t window = 0;    ///< T: tokens of one sample, the longest sequence of the run
    int64_t consumed = 0;  ///< samples trained on so far; skipped ones do not count
    std::vector<SourceRecord> sources;
    std::vector<BlendSegment> segments;
    std::vector<SkipRange> skips;  ///< sorted, apart from each other
    bool operator==(const SamplerState&) const = default;
};

/// A new run. Sources are numbered in the order of their names, so the order of the blend means
/// nothing. Errors of kind config name the source: no weight, a repeated name, fewer units than
/// one sample needs.
SamplerState start_sampling(uint64_t seed, int64_t window, std::vector<BlendSource> blend);

/// Continues with a blend that may have new weights, new sources or fewer sources: from the next
/// sample on when the shares differ. Nothing is lost or repeated. A known name with other content
/// is refused.
void reblend(SamplerState& state, std::vector<BlendSource> blend);

/// Replaces the list of samples to leave out. Ranges below what was consumed must be as they were:
/// the past cannot be changed.
void set_skips(SamplerState& state, std::vector<SkipRange> skips);

/// Where sample `sample` lies.
struct SampleRef {
    int64_t sample = 0;   ///< global number, skipped ones counted: the key of random numbers
    int64_t source = 0;   ///< permanent number
    int64_t ordinal = 0;  ///< how many samples of this source come before it
    int64_t epoch = 0;
    int64_t unit = 0;  ///< first token (the window wraps around at the end), or the example
    bool operator==(const SampleRef&) const = default;
};

/// Weights as integer shares of 65,536, each at least 1, by largest remainder; ties go to the
/// earlier one.
std::vector<int64_t> integer_shares(std::span<const double> weights);

/// A pseudo-random permutation of [0, size) as a function: eight rounds of a balanced Feistel
/// network on the next even number of bits (at least 8), repeated until the value lies below size.
/// Round r maps (L, R) to (R, L xor low_bits(mix(R xor mix(key + r)))), mix being SplitMix64.
int64_t permuted(int64_t index, int64_t size, uint64_t key);

/// Looks samples up. Thread safe; the state is fixed at construction.
class Sampler {
  public:
    static constexpr int64_t kBlock = 65536;

    /// Checks the state: an inconsistent one is an error of kind data.
    explicit Sampler(SamplerState state);
    Sampler(Sampler&&) noexcept;
    Sampler& operator=(Sampler&&) noexcept;
    ~Sampler();

    const SamplerState& state() const { return state_; }
    /// The global number of the sample that is trained on after `count` others: skips left out.
    int64_t sample_at(int64_t count) const;
    /// By global number.
    SampleRef locate(int64_t sample) const;
    /// Samples of each source among the global numbers [0, sample).
    std::vector<int64_t> counts_before(int64_t sample) const;
    /// Windows or examples of one epoch of a source.
    int64_t epoch_size(int64_t source) const;

  private:
    struct Entry {
        int32_t source;
        int32_t k;
    };
    struct Table;
    size_t segment_of(int64_t sample) const;
    const std::vector<Entry>& table(size_t segment) const;

    SamplerState state_;
    std::vector<std::unique_ptr<Table>> tables_;  ///< one a segment, built when first needed
};

}  // namespace plinth::core::data
