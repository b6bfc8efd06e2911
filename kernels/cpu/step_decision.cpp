// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

namespace plinth::kernels::cpu {

void set_step_number(View number, int64_t step, Stream&) {
    CHECK(number.elements() == 1 && number.dtype == DType::i64, "set_step_number: {} of {}",
          number.shape.text(), name_of(number.dtype));
    *number.as<int64_t>() = step;
}

void mark_time(View at, ConstView since, Stream&) {
    check_mark_time(at, since);
    *at.as<int64_t>() = clock_nanoseconds() - (since ? *since.as<int64_t>() : 0);
}

void decide_step(View outcome, View terms, ConstView words, StepWords places, StepTerms known,
                 ConstView fp8_largest, Stream&) {
    check_decide_step(outcome, terms, words, places, fp8_largest);
    decide(outcome.as<double>(), terms.as<float>(), words.as<int64_t>(), places, known,
           fp8_largest ? fp8_largest.as<int64_t>() : nullptr);
}

}  // namespace plinth::kernels::cpu
