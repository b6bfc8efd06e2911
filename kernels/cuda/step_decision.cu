// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

/// One thread: a few numbers of each micro-batch, in order.
__global__ void decide_alone(double* outcome, float* terms, const int64_t* words, StepWords places,
                             StepTerms known, const int64_t* fp8_largest) {
    decide(outcome, terms, words, places, known, fp8_largest);
}

__global__ void set_number(int64_t* number, int64_t step) {
    *number = step;
}

__global__ void take_time(int64_t* at, const int64_t* since) {
    *at = clock_nanoseconds() - (since ? *since : 0);
}

}  // namespace

void set_step_number(View number, int64_t step, Stream& stream) {
    CHECK(number.elements() == 1 && number.dtype == DType::i64, "set_step_number: {} of {}",
          number.shape.text(), name_of(number.dtype));
    set_number<<<1, 1, 0, queue_of(stream).stream()>>>(number.as<int64_t>(), step);
    CUDA_CHECK_LAUNCH("set_step_number");
}

void mark_time(View at, ConstView since, Stream& stream) {
    check_mark_time(at, since);
    take_time<<<1, 1, 0, queue_of(stream).stream()>>>(at.as<int64_t>(),
                                                      since ? since.as<int64_t>() : nullptr);
    CUDA_CHECK_LAUNCH("mark_time");
}

void decide_step(View outcome, View terms, ConstView words, StepWords places, StepTerms known,
                 ConstView fp8_largest, Stream& stream) {
    check_decide_step(outcome, terms, words, places, fp8_largest);
    decide_alone<<<1, 1, 0, queue_of(stream).stream()>>>(
        outcome.as<double>(), terms.as<float>(), words.as<int64_t>(), places, known,
        fp8_largest ? fp8_largest.as<int64_t>() : nullptr);
    CUDA_CHECK_LAUNCH("decide_step");
}

PLINTH_CUDA_KERNEL(set_step_number);
PLINTH_CUDA_KERNEL(mark_time);
PLINTH_CUDA_KERNEL(decide_step);

}  // namespace plinth::kernels::cuda
