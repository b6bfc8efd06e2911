// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/step_decision.h"
#include "launch/layouts.h"
#include "tests/support/altered_group.h"
#include "tests/support/twice_reduced_group.h"

// The words that the ranks of a layout add up at the end of a step, for doubles of their group.
namespace plinth::test {

inline constexpr const char* step_words_label = "losses and norm";

inline kernels::StepWords step_words(const launch::RunConfig& config, int ranks) {
    return {.slots = config.train.global_batch / config.train.micro_batch,
            .parts = config.parallel.context,
            .ranks = ranks};
}

/// Those of the gradient's sum of squares: its limbs, and whether it is not finite.
inline TwiceReducedGroup::Part words_of_squares(const kernels::StepWords& places) {
    return {.begin = static_cast<size_t>(places.squares()),
            .count = kernels::ExactSum::limb_count + 1};
}

/// Words that a rank has sent, as they are received.
inline std::span<int64_t> step_words_in(parallel::Bytes received,
                                        const kernels::StepWords& places) {
    const auto count = static_cast<size_t>(places.count());
    CHECK(received.size() == count * sizeof(int64_t), "{} bytes for {} words", received.size(),
          count);
    return {reinterpret_cast<int64_t*>(received.data()), count};
}

/// Zeros in these words of each loss that another rank gives.
inline AlteredGroup::Alter dropping_of_losses(const kernels::StepWords& places,
                                              std::vector<int> words) {
    return [places, words = std::move(words)](const std::string& label,
                                              const std::vector<parallel::Bytes>& received) {
        if (label != step_words_label) return;
        for (const parallel::Bytes bytes : received) {
            const std::span<int64_t> sent = step_words_in(bytes, places);
            for (int64_t slot = 0; slot < places.slots; ++slot)
                for (int64_t part = 0; part < places.parts; ++part)
                    for (const int word : words)
                        sent[static_cast<size_t>(places.at(slot, part) + word)] = 0;
        }
    };
}

}  // namespace plinth::test
