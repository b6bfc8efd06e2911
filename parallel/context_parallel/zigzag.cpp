// SPDX-License-Identifier: Apache-2.0
#include "parallel/context_parallel/zigzag.h"

namespace plinth::parallel {

core::SequencePart zigzag_part(int64_t length, int rank, int ranks) {
    if (ranks == 1) return {};
    CHECK(rank >= 0 && rank < ranks && length % context_multiple(ranks) == 0,
          "rank {} of {} shares a sequence of {} tokens", rank, ranks, length);
    const int64_t run = length / (2 * ranks);
    return {.whole = length, .run = run, .first = {rank * run, (2 * ranks - 1 - rank) * run}};
}

}  // namespace plinth::parallel
