// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <chrono>
#include <cstdint>
#include <limits>

#include "kernels/adamw.h"
#include "kernels/exact_sum.h"
#include "kernels/kernel.h"

namespace plinth::kernels {

/// What the host knows of an optimizer step when it hands out the work. The step before may still
/// be under way, so that it does not know whether that one updates.
struct StepTerms {
    /// Updates that this step's may come after, beside those that the host knows of.
    static constexpr int most_ahead = 1;

    AdamW adamw;        ///< bias corrections and gradient_scale are left out
    double clip = 0.0;  ///< largest norm of the mean gradient; 0: any
    int64_t known_updates = 0;
    /// 1 - beta^t of the update after those, and of the ones after it.
    double bias_correction1[most_ahead + 1]{}, bias_correction2[most_ahead + 1]{};
};

/// Places in the words of a step: i64, which ranks that compute it together add up. Each number is
/// given by one rank, a double as its bits, and the others leave its place at zero: so it comes
/// through a sum of integers as it is. The squares are added indeed.
struct StepWords {
    int64_t slots = 0;
    int64_t parts = 1;  ///< ranks that share the tokens of a slot: summands of its loss, in order
    int64_t ranks = 1;

    /// Of one summand.
    static constexpr int sum = 0;            ///< double: what is differentiated
    static constexpr int cross_entropy = 1;  ///< double: in it
    static constexpr int weight = 2;         ///< its tokens
    static constexpr int times = 3;          ///< that it was given: once
    static constexpr int summand = 4;

    PLINTH_HOST_DEVICE int64_t at(int64_t slot, int64_t part) const {
        return (slot * parts + part) * summand;
    }
    /// The gradient's sum of squares as exact_sum_of_blocks gives it.
    PLINTH_HOST_DEVICE int64_t squares() const { return slots * parts * summand; }
    /// Nanoseconds that a rank's device took for its micro-batches.
    PLINTH_HOST_DEVICE int64_t busy(int64_t rank) const {
        return squares() + ExactSum::limb_count + 1 + rank;
    }
    PLINTH_HOST_DEVICE int64_t count() const { return busy(ranks); }
};

/// Places in `outcome`.
struct StepWord {
    static constexpr int weight = 0;         ///< of the step's tokens, at least 1
    static constexpr int loss = 1;           ///< cross-entropy, mean over the weight
    static constexpr int z_loss = 2;         ///< what is minimised beside it, as a mean
    static constexpr int gradient_norm = 3;  ///< of the mean gradient, before clipping
    static constexpr int updates_here = 4;   ///< 1, or 0: the step is not finite and is skipped
    /// Made so far, this step's included; or one of the two below, and then nothing updates.
    static constexpr int updates = 5;
    static constexpr int slowest = 6;  ///< seconds of the rank that was busy longest
    static constexpr int fastest = 7;
    static constexpr int fp8_is_finite = 8;  ///< 1, or 0: what went into 8 bits is not, so a skip
    static constexpr int count = 9;

    static constexpr double other_count = -1.0;   ///< the host has counted other updates
    static constexpr double other_losses = -2.0;  ///< a loss was given by no rank, or by several
};

/// The first bits of fp32 magnitudes that are not finite.
constexpr int64_t fp8_not_finite = 0x7f800000;

/// The arithmetic of decide_step; the same bits on every device.
PLINTH_HOST_DEVICE inline void decide(double* outcome, float* terms, const int64_t* words,
                                      const StepWords& places, const StepTerms& known,
                                      const int64_t* fp8_largest) {
    double cross_entropy = 0.0, z_loss = 0.0;
    int64_t tokens = 0;
    bool is_whole = true;
    for (int64_t slot = 0; slot < places.slots; ++slot) {
        double sum = 0.0, reported = 0.0;
        for (int64_t part = 0; part < places.parts; ++part) {
            const int64_t* given = words + places.at(slot, part);
            const auto of_sum = std::bit_cast<double>(given[StepWords::sum]),
                       of_reported = std::bit_cast<double>(given[StepWords::cross_entropy]);
            sum = part == 0 ? of_sum : sum + of_sum;
            reported = part == 0 ? of_reported : reported + of_reported;
            tokens += given[StepWords::weight];
            is_whole = is_whole && given[StepWords::times] == 1;
        }
        cross_entropy += reported;
        z_loss += sum - reported;
    }
    const auto weight = static_cast<double>(tokens > 1 ? tokens : 1);
    int64_t squares[ExactSum::limb_count];
    for (int i = 0; i < ExactSum::limb_count; ++i)
        squares[i] = words[places.squares() + i];
    carry_limbs(squares, ExactSum::limb_count);  // they are sums over ranks
    const double square = words[places.squares() + ExactSum::limb_count] > 0
                              ? std::numeric_limits<double>::quiet_NaN()
                              : exact_value(squares, ExactSum::limb_count);
    const double loss = cross_entropy / weight, norm = std::sqrt(square) / weight;
    const double updates = outcome[StepWord::updates];
    const int64_t ahead = static_cast<int64_t>(updates) - known.known_updates;
    const bool is_foreseen = ahead >= 0 && ahead <= StepTerms::most_ahead;
    // A difference of what is not finite is no zero.
    const bool fp8_is_finite = !fp8_largest || *fp8_largest < fp8_not_finite;
    const bool goes =
        is_whole && is_foreseen && fp8_is_finite && loss - loss == 0.0 && norm - norm == 0.0;
    int64_t slowest = words[places.busy(0)], fastest = slowest;
    for (int64_t rank = 1; rank < places.ranks; ++rank) {
        const int64_t busy = words[places.busy(rank)];
        slowest = busy > slowest ? busy : slowest;
        fastest = busy < fastest ? busy : fastest;
    }
    outcome[StepWord::slowest] = static_cast<double>(slowest) * 1e-9;
    outcome[StepWord::fastest] = static_cast<double>(fastest) * 1e-9;
    outcome[StepWord::weight] = weight;
    outcome[StepWord::loss] = loss;
    outcome[StepWord::z_loss] = z_loss / weight;
    outcome[StepWord::gradient_norm] = norm;
    outcome[StepWord::fp8_is_finite] = fp8_is_finite ? 1.0 : 0.0;
    outcome[StepWord::updates_here] = goes ? 1.0 : 0.0;
    outcome[StepWord::updates] = !is_whole      ? StepWord::other_losses
                                 : !is_foreseen ? StepWord::other_count
                                 : goes         ? updates + 1.0
                                                : updates;
    AdamW options = known.adamw;
    const int64_t at = is_foreseen ? ahead : 0;
    options.bias_correction1 = known.bias_correction1[at];
    options.bias_correction2 = known.bias_correction2[at];
    options.gradient_scale =
        (known.clip > 0.0 && norm > known.clip ? known.clip / norm : 1.0) / weight;
    for (int row = 0; row < 2; ++row) {
        if (row == 1) options.weight_decay = 0.0;
        float* given = terms + row * adamw_words;
        AdamWConstants(options).write(given);
        given[AdamWConstants::words] = goes ? 1.0f : 0.0f;
    }
}

/// number i64 [1] = the step's: where kernels find it that were captured once (StepNumber).
PLINTH_KERNEL(set_step_number, View number, int64_t step);

/// A clock of the device, in nanoseconds; of a host that stands for one, the host's.
PLINTH_HOST_DEVICE inline int64_t clock_nanoseconds() {
#if defined(__CUDA_ARCH__)
    int64_t now = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
#else
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

/// at i64 [1] = the time when the work before is done, less since i64 [1] where that is given.
PLINTH_KERNEL(mark_time, View at, ConstView since);

/// What a step comes to, for a host that does not wait for it.
///
/// outcome f64 [StepWord::count], overwritten but for `updates`, to which this step's is added.
/// terms f32 [2, adamw_words] for adamw_decided: with weight decay, without. words i64
/// [places.count()]. fp8_largest i64 [1]: the bits of the largest magnitude of all ranks that went
/// into 8 bits (the last of fp8_history_words); may be left out.
PLINTH_KERNEL(decide_step, View outcome, View terms, ConstView words, StepWords places,
              StepTerms known, ConstView fp8_largest);

inline void check_mark_time(const View& at, const ConstView& since) {
    CHECK(at.elements() == 1 && at.dtype == DType::i64 &&
              (!since || (since.elements() == 1 && since.dtype == DType::i64)),
          "mark_time: {} of {} since {}", at.shape.text(), name_of(at.dtype), since.shape.text());
}

inline void check_decide_step(const View& outcome, const View& terms, const ConstView& words,
                              const StepWords& places, const ConstView& fp8_largest) {
    CHECK(outcome.elements() == StepWord::count && terms.elements() == 2 * adamw_words &&
              words.elements() == places.count() && (!fp8_largest || fp8_largest.elements() == 1),
          "decide_step: {} and {} words of {} for {} slots of {} parts and {} ranks",
          outcome.elements(), terms.elements(), words.elements(), places.slots, places.parts,
          places.ranks);
}

}  // namespace plinth::kernels
