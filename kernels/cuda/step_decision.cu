// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

/// One thread: a few numbers of each micro-batch, in order.
__global__ void decide_alone(double* outcome, float* terms, const double* losses,
                             const int64_t* weights, int64_t slots, const int64_t* squares,
                             StepTerms known) {
    decide(outcome, terms, losses, weights, slots, squares, known);
}

__global__ void set_number(int64_t* number, int64_t step) {
    *number = step;
}

}  // namespace

void set_step_number(View number, int64_t step, Stream& stream) {
    CHECK(number.elements() == 1 && number.dtype == DType::i64, "set_step_number: {} of {}",
          number.shape.text(), name_of(number.dtype));
    set_number<<<1, 1, 0, queue_of(stream).stream()>>>(number.as<int64_t>(), step);
    CUDA_CHECK_LAUNCH("set_step_number");
}

void decide_step(View outcome, View terms, ConstView losses, ConstView weights, ConstView squares,
                 StepTerms known, Stream& stream) {
    const int64_t slots = weights.elements();
    CHECK(outcome.elements() == StepWord::count && terms.elements() == 2 * adamw_words &&
              losses.elements() == 2 * slots && squares.elements() == ExactSum::limb_count + 1,
          "decide_step: {} and {} words of {} losses, {} weights and {} words", outcome.elements(),
          terms.elements(), losses.elements(), slots, squares.elements());
    decide_alone<<<1, 1, 0, queue_of(stream).stream()>>>(outcome.as<double>(), terms.as<float>(),
                                                         losses.as<double>(), weights.as<int64_t>(),
                                                         slots, squares.as<int64_t>(), known);
    CUDA_CHECK_LAUNCH("decide_step");
}

PLINTH_CUDA_KERNEL(set_step_number);
PLINTH_CUDA_KERNEL(decide_step);

}  // namespace plinth::kernels::cuda
