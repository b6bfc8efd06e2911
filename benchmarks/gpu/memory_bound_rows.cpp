// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "benchmarks/gpu/memory_rows.h"
#include "kernels/add.h"
#include "kernels/attention.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/gelu.h"
#include "kernels/kv_cache.h"
#include "kernels/layer_norm.h"
#include "kernels/matmul.h"
#include "kernels/qk_norm.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/select_rows.h"
#include "kernels/swiglu.h"

namespace plinth::test {

namespace {

void add_norms(Rows& rows, const ModelSizes& m) {
    const int64_t N = m.tokens(), blocks = kernels::norm_blocks(N);
    const Shape shape{N, m.D}, parts{blocks, m.D};
    const double n = count(shape);
    // Alone; forward with the residual sum before it, backward with the gradient that comes along
    // the residual stream.
    for (const bool has_sum : {false, true}) {
        const char* with = has_sum ? " + residual" : "";
        const double more = has_sum ? 1 : 0;
        const auto or_none = [=](DeviceTensors& t) {
            return has_sum ? t.random(shape, bf16) : View{};
        };
        if (m.gated) {
            rows.add(fmt::format("rms_norm{} forward", with), shape, (2 + 2 * more) * n * half_size,
                     [=](DeviceTensors& t) -> KernelCall {
                         const View y = t.random(shape, bf16), x = t.random(shape, bf16),
                                    sum = or_none(t), branch = or_none(t), rstd = t.zeros({N}, f32),
                                    weight = t.random({shape[1]}, f32);
                         return [=](Stream& s) {
                             kernels::rms_norm_forward(y, rstd, sum, x, branch, weight, 1e-5, s);
                         };
                     });
            rows.add(fmt::format("rms_norm{} backward", with), shape, (3 + more) * n * half_size,
                     [=](DeviceTensors& t) -> KernelCall {
                         const View dx = t.random(shape, bf16), dy = t.random(shape, bf16),
                                    dsum = or_none(t), x = t.random(shape, bf16),
                                    rstd = t.random({N}, f32), weight = t.random({shape[1]}, f32),
                                    dweight = t.zeros({shape[1]}, f32);
                         return [=](Stream& s) {
                             kernels::rms_norm_backward(dx, dweight, dy, dsum, x, weight, rstd, s);
                         };
                     });
            continue;
        }
        rows.add(fmt::format("layer_norm{} forward", with), shape, (2 + 2 * more) * n * half_size,
                 [=](DeviceTensors& t) -> KernelCall {
                     const View y = t.random(shape, bf16), x = t.random(shape, bf16),
                                sum = or_none(t), branch = or_none(t), mean = t.zeros({N}, f32),
                                rstd = t.zeros({N}, f32), weight = t.random({shape[1]}, f32),
                                bias = t.random({shape[1]}, f32);
                     return [=](Stream& s) {
                         kernels::layer_norm_forward(y, mean, rstd, sum, x, branch, weight, bias,
                                                     1e-5f, s);
                     };
                 });
        rows.add(fmt::format("layer_norm{} backward", with), shape,
                 (3 + more) * n * half_size + 2 * count(parts) * full_size,
                 [=](DeviceTensors& t) -> KernelCall {
                     const View dx = t.random(shape, bf16), dy = t.random(shape, bf16),
                                dsum = or_none(t), x = t.random(shape, bf16),
                                mean = t.random({N}, f32), rstd = t.random({N}, f32),
                                weight = t.random({shape[1]}, f32), dweight = t.zeros(parts, f32),
                                dbias = t.zeros(parts, f32);
                     return [=](Stream& s) {
                         kernels::layer_norm_backward(dx, dweight, dbias, dy, dsum, x, weight, mean,
                                                      rstd, s);
                     };
                 });
    }
}

void add_activations(Rows& rows, const ModelSizes& m) {
    const int64_t N = m.tokens();
    const Shape shape{N, m.F}, packed{N, 2 * m.F};
    const double n = count(shape);
    if (m.gated) {
        rows.add("swiglu forward", shape, 3 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
            const View y = t.random(shape, bf16), x = t.random(packed, bf16);
            return [=](Stream& s) { kernels::swiglu_forward(y, x, s); };
        });
        rows.add("swiglu backward", shape, 5 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
            const View dx = t.random(packed, bf16), dy = t.random(shape, bf16),
                       x = t.random(packed, bf16);
            return [=](Stream& s) { kernels::swiglu_backward(dx, dy, x, s); };
        });
        return;
    }
    rows.add("gelu forward", shape, 2 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(shape, bf16), x = t.random(shape, bf16);
        return [=](Stream& s) { kernels::gelu_forward(y, x, kernels::Gelu::tanh, s); };
    });
    rows.add("gelu backward", shape, 3 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View dx = t.random(shape, bf16), dy = t.random(shape, bf16),
                   x = t.random(shape, bf16);
        return [=](Stream& s) { kernels::gelu_backward(dx, dy, x, kernels::Gelu::tanh, s); };
    });
}

void add_elementwise(Rows& rows, const ModelSizes& m) {
    const int64_t N = m.tokens(), B = m.B;
    const Shape shape{N, m.D}, wide{N, m.F}, samples{B, m.T, m.D};
    const double n = count(shape), w = count(wide);
    rows.add("add", shape, 3 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(shape, bf16), a = t.random(shape, bf16), b = t.random(shape, bf16);
        return [=](Stream& s) { kernels::add(y, a, b, s); };
    });
    rows.add("add_row", shape, 2 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(shape, bf16), x = t.random(shape, bf16),
                   row = t.random({shape[1]}, f32);
        return [=](Stream& s) { kernels::add_row(y, x, row, s); };
    });
    rows.add("fill", shape, n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(shape, bf16);
        return [=](Stream& s) { kernels::fill(y, 0.5f, s); };
    });
    rows.add("scale", shape, 2 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(shape, bf16), x = t.random(shape, bf16);
        return [=](Stream& s) { kernels::scale(y, x, 0.5f, s); };
    });
    rows.add("cast f32 to bf16", shape, n * (half_size + full_size),
             [=](DeviceTensors& t) -> KernelCall {
                 const View y = t.random(shape, bf16), x = t.random(shape, f32);
                 return [=](Stream& s) { kernels::cast(y, x, s); };
             });
    rows.add("dropout + residual", shape, 3 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(samples, bf16), residual = t.random(samples, bf16),
                   x = t.random(samples, bf16), numbers = t.sample_numbers(B);
        const kernels::Dropout options{.probability = 0.1f, .key = StepKey(1, "dropout")};
        return [=](Stream& s) { kernels::dropout(y, residual, x, numbers, options, s); };
    });
    rows.add("column_sum", wide, w * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View sums = t.zeros({wide[1]}, f32), dy = t.random(wide, bf16);
        return [=](Stream& s) { kernels::column_sum(sums, dy, s); };
    });
    rows.add("select_rows forward", shape, n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random({N / 2, shape[1]}, bf16), x = t.random(shape, bf16),
                   every = t.counting_ids({N / 2}, N / 2);
        return [=](Stream& s) { kernels::select_rows_forward(y, x, every, s); };
    });
    rows.add("select_rows backward", shape, 1.5 * n * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View dx = t.random(shape, bf16), dy = t.random({N / 2, shape[1]}, bf16),
                            every = t.counting_ids({N / 2}, N / 2);
                 return [=](Stream& s) { kernels::select_rows_backward(dx, dy, every, s); };
             });
    const Shape targets_shape{B, m.T};
    rows.add("find_labelled_rows", targets_shape, static_cast<double>(N) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View found = t.counting_ids({B}, B), labels = t.counting_ids({B}, B),
                            targets = t.last_labels(targets_shape);
                 return [=](Stream& s) {
                     kernels::find_labelled_rows(found, labels, targets, -100, s);
                 };
             });
}

void add_tables(Rows& rows, const ModelSizes& m) {
    const int64_t N = m.tokens();
    const Shape shape{N, m.D}, table{m.V, m.D}, positions{m.T, m.D};
    const kernels::TableRows whole{.first = 0, .total = m.V};
    const bool learned = !m.gated;
    rows.add("embedding forward", shape, 2 * count(shape) * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View y = t.random(shape, bf16), tokens = t.random_ids({N}, table[0]),
                            weight = t.random(table, bf16),
                            places = learned ? t.counting_ids({N}, positions[0]) : View{},
                            position = learned ? t.random(positions, bf16) : View{};
                 return [=](Stream& s) {
                     kernels::embedding_forward(y, tokens, weight, places, position, whole, s);
                 };
             });
    rows.add("embedding backward", shape, count(shape) * half_size + count(table) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View dtable = t.zeros(table, f32), dy = t.random(shape, bf16),
                            tokens = t.random_ids({N}, table[0]);
                 return [=](Stream& s) {
                     kernels::embedding_backward(dtable, dy, tokens, whole, false, s);
                 };
             });
    if (!learned) return;
    rows.add("positions backward", shape, count(shape) * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View dtable = t.zeros(positions, f32), dy = t.random(shape, bf16),
                            places = t.counting_ids({N}, positions[0]);
                 return [=](Stream& s) {
                     kernels::embedding_backward(dtable, dy, places,
                                                 {.first = 0, .total = positions[0]}, false, s);
                 };
             });
}

void add_heads(Rows& rows, const ModelSizes& m) {
    const int64_t B = m.B, T = m.T, H = m.H, G = m.G, K = m.K;
    const Shape packed{B, T, m.qkv_columns()};
    const double n = count(packed), turned = static_cast<double>(B * T * (H + G) * K);
    rows.add("rotary in place", packed, 2 * turned * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View qkv = t.random(packed, bf16), places = t.counting_ids({B, T}, T);
                 const kernels::Rotary options{.heads = H, .kv_heads = G, .theta = 500000.0};
                 return [=](Stream& s) { kernels::rotary(qkv, qkv, places, options, false, s); };
             });
    const kernels::QkNorm options{.heads = H, .kv_heads = G};
    rows.add("qk_norm forward", packed, 2 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View y = t.random(packed, bf16), qkv = t.random(packed, bf16),
                   rstd = t.zeros({B, T, H + G}, f32), q = t.random({K}, f32),
                   k = t.random({K}, f32);
        return [=](Stream& s) { kernels::qk_norm_forward(y, rstd, qkv, q, k, options, s); };
    });
    rows.add("qk_norm input_grad", packed, 3 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View dqkv = t.random(packed, bf16), dy = t.random(packed, bf16),
                   qkv = t.random(packed, bf16), rstd = t.random({B, T, H + G}, f32),
                   q = t.random({K}, f32), k = t.random({K}, f32);
        return
            [=](Stream& s) { kernels::qk_norm_input_grad(dqkv, dy, qkv, rstd, q, k, options, s); };
    });
    for (const bool of_keys : {false, true}) {
        const auto heads = static_cast<double>(of_keys ? G : H);
        const auto tokens = static_cast<double>(B * T);
        rows.add(fmt::format("qk_norm weight_grad, {}", of_keys ? "keys" : "queries"), packed,
                 tokens * heads * (2 * static_cast<double>(K) * half_size + full_size),
                 [=](DeviceTensors& t) -> KernelCall {
                     const View dweight = t.zeros({K}, f32), dy = t.random(packed, bf16),
                                qkv = t.random(packed, bf16), rstd = t.random({B, T, H + G}, f32);
                     return [=](Stream& s) {
                         kernels::qk_norm_weight_grad(dweight, dy, qkv, rstd, of_keys, options, s);
                     };
                 });
    }
    // One new token of each sample over a full cache, which is read.
    rows.add("attention_cached", {B, T, G * K}, 2 * static_cast<double>(B * T * G * K) * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View y = t.random({B, 1, H * K}, bf16), q = t.random({B, 1, H * K}, bf16),
                            k = t.random({B, T, G * K}, bf16), v = t.random({B, T, G * K}, bf16),
                            starts = t.last_places(B, T);
                 const kernels::Attention attention{.heads = H, .kv_heads = G};
                 return [=](Stream& s) {
                     kernels::attention_cached(y, q, k, v, starts, {}, attention, s);
                 };
             });
    rows.add("kv_cache_append", packed, 4 * static_cast<double>(B * T * G * K) * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View k = t.random({B, T, G * K}, bf16), v = t.random({B, T, G * K}, bf16),
                            qkv = t.random(packed, bf16), starts = t.counting_ids({B}, 1);
                 return [=](Stream& s) { kernels::kv_cache_append(k, v, qkv, starts, s); };
             });
}

void add_cross_entropy(Rows& rows, const ModelSizes& m) {
    const int64_t N = m.head_tokens;
    const Shape logits{N, m.V};
    const double n = count(logits);
    const kernels::CrossEntropy options{.valid_columns = m.V};
    rows.add("cross_entropy local", logits, n * half_size, [=](DeviceTensors& t) -> KernelCall {
        const View largest = t.zeros({N}, f32), sum = t.zeros({N}, f32), target = t.zeros({N}, f32),
                   x = t.random(logits, bf16, 4.0f), targets = t.random_ids({N}, logits[1]);
        return [=](Stream& s) {
            kernels::cross_entropy_local(largest, sum, target, x, targets, options, s);
        };
    });
    // Of tokens, not of logits: the three numbers of each, its target and its log_sum.
    rows.add("cross_entropy finish", {N}, 5 * static_cast<double>(N) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View loss = t.zeros({1}, DType::f64), entropy = t.zeros({1}, DType::f64),
                            weight = t.zeros({1}, DType::i64), correct = t.zeros({1}, DType::i64),
                            log_sum = t.zeros({N}, f32), largest = t.random({N}, f32),
                            sum = t.random({N}, f32), target = t.random({N}, f32),
                            targets = t.random_ids({N}, logits[1]);
                 return [=](Stream& s) {
                     kernels::cross_entropy_finish(loss, entropy, weight, correct, log_sum, largest,
                                                   sum, target, targets, options, s);
                 };
             });
    rows.add(
        "cross_entropy backward", logits, 2 * n * half_size, [=](DeviceTensors& t) -> KernelCall {
            // Logits become gradients: what follows the first call is small and as random.
            const View x = t.random(logits, bf16, 4.0f), dloss = t.random({1}, f32),
                       log_sum = t.random({N}, f32, 12.0f), targets = t.random_ids({N}, logits[1]);
            return [=](Stream& s) {
                kernels::cross_entropy_backward(x, dloss, log_sum, targets, options, s);
            };
        });
}

}  // namespace

std::vector<TableRow> memory_bound_rows(const ModelSizes& model) {
    Rows rows(model);
    add_norms(rows, model);
    add_activations(rows, model);
    add_tables(rows, model);
    add_cross_entropy(rows, model);
    if (model.gated) {
        add_heads(rows, model);
    } else {
        add_elementwise(rows, model);
        add_optimizer(rows, model);
    }
    return rows.take();
}

}  // namespace plinth::test
