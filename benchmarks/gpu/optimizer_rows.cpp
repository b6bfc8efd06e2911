// SPDX-License-Identifier: Apache-2.0
// What follows the last micro-batch of a step.
#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "benchmarks/gpu/memory_rows.h"
#include "kernels/adamw.h"
#include "kernels/fp8_history.h"
#include "kernels/grad_norm.h"
#include "kernels/step_decision.h"

namespace plinth::test {

namespace {

/// Elements of each parameter of 12 layers with biases, as GPT-2 124M has them.
std::vector<int64_t> parameters_of(const ModelSizes& m) {
    std::vector<int64_t> sizes{m.V * m.D, m.T * m.D};
    for (int layer = 0; layer < 12; ++layer)
        for (const int64_t size : {m.D, m.D, m.qkv_columns() * m.D, m.qkv_columns(), m.D * m.D, m.D,
                                   m.D, m.D, m.F * m.D, m.F, m.F * m.D, m.D})
            sizes.push_back(size);
    sizes.insert(sizes.end(), {m.D, m.D});
    return sizes;
}

/// Of the 4 weights of each of 12 layers. Once a step: their time counts, not the rate.
void add_fp8_history(Rows& rows) {
    const int64_t n = 12 * 4 * 3, steps = kernels::fp8_history_steps;
    rows.add("fp8_history_scales", {steps, n}, static_cast<double>((steps + 1) * n) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View scales = t.zeros({n}, f32), lasts = t.zeros({1}, DType::i64),
                            history = t.random({steps, n}, f32), count = t.zeros({1}, DType::i64),
                            seen = t.zeros({n + 1}, DType::i64);
                 auto is_ready = std::make_shared<bool>(false);
                 return [=](Stream& s) {
                     for (int64_t i = 0; i < steps && !*is_ready; ++i)
                         kernels::fp8_history_push(history, count, seen, {}, s);
                     *is_ready = true;
                     kernels::fp8_history_scales(scales, lasts, history, count, s);
                 };
             });
    rows.add("fp8_history_words", {n}, static_cast<double>(n) * 3 * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View seen = t.zeros({n + 1}, DType::i64), largest = t.zeros({n}, f32);
                 return [=](Stream& s) { kernels::fp8_history_words(seen, largest, s); };
             });
    rows.add("fp8_history_push", {n}, static_cast<double>(n) * 3 * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View seen = t.zeros({n + 1}, DType::i64), count = t.zeros({1}, DType::i64),
                            history = t.zeros({steps, n}, f32);
                 return [=](Stream& s) { kernels::fp8_history_push(history, count, seen, {}, s); };
             });
}

}  // namespace

void add_optimizer(Rows& rows, const ModelSizes& m) {
    add_fp8_history(rows);
    const int64_t n = m.parameters, blocks = n / kernels::norm_block, slots = 64;
    const auto decide = [=](DeviceTensors& t, int64_t of_slots, const kernels::StepTerms& known) {
        const kernels::StepWords places{.slots = of_slots};
        const View outcome = t.zeros({kernels::StepWord::count}, DType::f64),
                   terms = t.zeros({2, kernels::adamw_words}, f32),
                   words = t.zeros({places.count()}, DType::i64);
        const KernelCall call = [=](Stream& s) {
            kernels::decide_step(outcome, terms, words, places, known, {}, s);
        };
        return std::pair(call, terms);
    };
    // Once a step: its time counts, not the rate.
    rows.add("decide_step", {slots}, static_cast<double>(slots) * 32,
             [=](DeviceTensors& t) -> KernelCall { return decide(t, slots, {}).first; });
    const auto add_adamw = [&](const char* name, DType moments, double moment_size,
                               bool is_decided) {
        const double moved = 3 * full_size + 4 * moment_size;  // of an element
        rows.add(name, {n}, moved * static_cast<double>(n), [=](DeviceTensors& t) -> KernelCall {
            const View weight = t.random({n}, f32), first = t.random({n}, moments, 1e-3f),
                       second = t.zeros({n}, moments), gradient = t.random({n}, f32);
            const kernels::AdamW options{
                .learning_rate = 1e-4, .weight_decay = 0.1, .rounding = StepKey(1, "moments")};
            if (!is_decided)
                return
                    [=](Stream& s) { kernels::adamw(weight, first, second, gradient, options, s); };
            kernels::StepTerms known{.adamw = options};
            std::fill_n(known.bias_correction1, kernels::StepTerms::most_ahead + 1, 1.0);
            std::fill_n(known.bias_correction2, kernels::StepTerms::most_ahead + 1, 1.0);
            const auto [decide_once, terms] = decide(t, /*of_slots=*/0, known);
            auto is_ready = std::make_shared<bool>(false);
            return [=, decide_once = decide_once, terms = terms](Stream& s) {
                if (!*is_ready) decide_once(s);  // in the warm-up
                *is_ready = true;
                kernels::adamw_decided({{.weight = weight,
                                         .first_moment = first,
                                         .second_moment = second,
                                         .gradient = gradient}},
                                       terms, s);
            };
        });
    };
    add_adamw("adamw", f32, full_size, false);
    add_adamw("adamw, bf16 moments", bf16, half_size, false);
    add_adamw("adamw_decided", f32, full_size, true);
    const auto add_parts = [&](const char* name, DType moments, double moment_size) {
        const std::vector<int64_t> sizes = parameters_of(m);
        const int64_t all = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
        const double moved = 3 * full_size + 4 * moment_size;  // of an element
        rows.add(
            name, {all}, moved * static_cast<double>(all), [=](DeviceTensors& t) -> KernelCall {
                std::vector<kernels::AdamWPart> parts;
                for (const int64_t size : sizes)
                    parts.push_back({.weight = t.random({size}, f32),
                                     .first_moment = t.random({size}, moments, 1e-3f),
                                     .second_moment = t.zeros({size}, moments),
                                     .gradient = t.random({size}, f32),
                                     .decays = size > m.F,
                                     .rounding = {1, "moments"}});
                return [=](Stream& s) {
                    kernels::adamw_parts(parts, {.learning_rate = 1e-4, .weight_decay = 0.1}, s);
                };
            });
    };
    add_parts("adamw_parts, 148 parameters", f32, full_size);
    add_parts("adamw_parts, 148 parameters, bf16 moments", bf16, half_size);
    rows.add("squared_block_sums", {n}, static_cast<double>(n) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View sums = t.zeros({blocks}, DType::f64), gradient = t.random({n}, f32);
                 return [=](Stream& s) { kernels::squared_block_sums(sums, {gradient}, s); };
             });
    rows.add("exact_sum_of_blocks", {blocks}, static_cast<double>(blocks) * 2 * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View exact = t.zeros({kernels::ExactSum::limb_count + 1}, DType::i64),
                            sums = t.zeros({blocks}, DType::f64), gradient = t.random({n}, f32);
                 auto is_ready = std::make_shared<bool>(false);
                 return [=](Stream& s) {
                     if (!*is_ready) kernels::squared_block_sums(sums, {gradient}, s);
                     *is_ready = true;
                     kernels::exact_sum_of_blocks(exact, sums, s);
                 };
             });
}

}  // namespace plinth::test
