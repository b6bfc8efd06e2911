// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

namespace plinth::kernels::cpu {

void set_step_number(View number, int64_t step, Stream&) {
    CHECK(number.elements() == 1 && number.dtype == DType::i64, "set_step_number: {} of {}",
          number.shape.text(), name_of(number.dtype));
    *number.as<int64_t>() = step;
}

void decide_step(View outcome, View terms, ConstView losses, ConstView weights, ConstView squares,
                 StepTerms known, Stream&) {
    const int64_t slots = weights.elements();
    CHECK(outcome.elements() == StepWord::count && terms.elements() == 2 * adamw_words &&
              losses.elements() == 2 * slots && squares.elements() == ExactSum::limb_count + 1,
          "decide_step: {} and {} words of {} losses, {} weights and {} words", outcome.elements(),
          terms.elements(), losses.elements(), slots, squares.elements());
    decide(outcome.as<double>(), terms.as<float>(), losses.as<double>(), weights.as<int64_t>(),
           slots, squares.as<int64_t>(), known);
}

}  // namespace plinth::kernels::cpu
