// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <numeric>

#include "benchmarks/gpu/model_rows.h"
#include "kernels/adamw.h"
#include "kernels/add.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/gelu.h"
#include "kernels/grad_norm.h"
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

constexpr DType bf16 = DType::bf16, f32 = DType::f32;
constexpr double half_size = 2.0, full_size = 4.0;

using Prepare = std::function<KernelCall(DeviceTensors&)>;

/// Rows of one model: names, and bytes counted in elements of a [N, columns] tensor.
class Rows {
  public:
    explicit Rows(const ModelSizes& model) : model_(model) {}

    void add(const std::string& name, const Shape& shape, double bytes, Prepare prepare) {
        rows_.push_back({.name = model_.name + " " + name,
                         .shape = shape.text(),
                         .work = {.bytes = bytes},
                         .prepare = std::move(prepare)});
    }
    std::vector<TableRow> take() { return std::move(rows_); }

  private:
    const ModelSizes& model_;
    std::vector<TableRow> rows_;
};

double count(const Shape& shape) {
    return static_cast<double>(shape.elements());
}

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
    rows.add("kv_cache_append", packed, 4 * static_cast<double>(B * T * G * K) * half_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View k = t.random({B, T, G * K}, bf16), v = t.random({B, T, G * K}, bf16),
                            qkv = t.random(packed, bf16), starts = t.counting_ids({B}, 1);
                 return [=](Stream& s) { kernels::kv_cache_append(k, v, qkv, starts, s); };
             });
}

void add_cross_entropy(Rows& rows, const ModelSizes& m) {
    const int64_t N = 8192;  // a chunk of tokens
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

/// Elements of each parameter of GPT-2 124M: two tables, twelve of each block, the last norm.
std::vector<int64_t> gpt2_parameters() {
    constexpr int64_t D = 768;
    std::vector<int64_t> sizes{50304 * D, 1024 * D};
    for (int layer = 0; layer < 12; ++layer)
        for (const int64_t size :
             {D, D, 3 * D * D, 3 * D, D * D, D, D, D, 4 * D * D, 4 * D, 4 * D * D, D})
            sizes.push_back(size);
    sizes.insert(sizes.end(), {D, D});
    return sizes;
}

void add_optimizer(Rows& rows) {
    const int64_t n = 124 << 20;
    const auto add_adamw = [&](const char* name, DType moments, double moment_size) {
        const double moved = 3 * full_size + 4 * moment_size;  // of an element
        rows.add(name, {n}, moved * static_cast<double>(n), [=](DeviceTensors& t) -> KernelCall {
            const View weight = t.random({n}, f32), first = t.random({n}, moments, 1e-3f),
                       second = t.zeros({n}, moments), gradient = t.random({n}, f32);
            const kernels::AdamW options{
                .learning_rate = 1e-4, .weight_decay = 0.1, .rounding = StepKey(1, "moments")};
            return [=](Stream& s) { kernels::adamw(weight, first, second, gradient, options, s); };
        });
    };
    add_adamw("adamw", f32, full_size);
    add_adamw("adamw, bf16 moments", bf16, half_size);
    const auto add_parts = [&](const char* name, DType moments, double moment_size) {
        const std::vector<int64_t> sizes = gpt2_parameters();
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
                                     .decays = size > 4096,
                                     .rounding = {1, "moments"}});
                return [=](Stream& s) {
                    kernels::adamw_parts(parts, {.learning_rate = 1e-4, .weight_decay = 0.1}, s);
                };
            });
    };
    add_parts("adamw, 148 parameters", f32, full_size);
    add_parts("adamw, 148 parameters, bf16 moments", bf16, half_size);
    rows.add("squared_block_sums", {n}, static_cast<double>(n) * full_size,
             [=](DeviceTensors& t) -> KernelCall {
                 const View sums = t.zeros({n / kernels::norm_block}, DType::f64),
                            gradient = t.random({n}, f32);
                 return [=](Stream& s) { kernels::squared_block_sums(sums, {gradient}, s); };
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
        add_optimizer(rows);
    }
    return rows.take();
}

}  // namespace plinth::test
