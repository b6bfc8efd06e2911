// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "benchmarks/gpu/model_rows.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"

namespace plinth::test {

namespace {

constexpr DType bf16 = DType::bf16, f32 = DType::f32;

/// Rows of the head's products: cross-entropy works on chunks of tokens.
constexpr int64_t head_rows = 8192;

TableRow product(const std::string& name, int64_t m, int64_t n, int64_t k, DType out,
                 kernels::Matmul options, bool with_bias) {
    TableRow row{.name = name,
                 .shape = fmt::format("{}x{}x{}", m, n, k),
                 .work = {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) *
                                   static_cast<double>(k)},
                 .prepare = {}};
    row.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View c =
            options.accumulate ? tensors.zeros({m, n}, out) : tensors.random({m, n}, out);
        const View a = tensors.random(options.transpose_a ? Shape{k, m} : Shape{m, k}, bf16);
        const View b = tensors.random(options.transpose_b ? Shape{n, k} : Shape{k, n}, bf16, 0.02f);
        const View bias = with_bias ? tensors.random({n}, f32) : View{};
        return [=](Stream& stream) { kernels::matmul(c, a, b, bias, options, stream); };
    };
    return row;
}

}  // namespace

std::vector<TableRow> ceiling_rows() {
    constexpr int64_t size = int64_t{1} << 28;
    TableRow copy{.name = "copy",
                  .shape = "1 GiB",
                  .work = {.bytes = 8.0 * static_cast<double>(size)},
                  .prepare = [](DeviceTensors& tensors) -> KernelCall {
                      const View to = tensors.random({size}, f32),
                                 from = tensors.random({size}, f32);
                      return [=](Stream& stream) { stream.copy(to.data, from.data, to.bytes()); };
                  }};
    return {copy, product("matmul 8192", 8192, 8192, 8192, bf16, {.transpose_b = true}, false)};
}

std::vector<TableRow> product_rows(const ModelSizes& model) {
    struct Layer {
        const char* name;
        int64_t rows, columns, width;  ///< y[rows, columns] = x[rows, width] W^T
    };
    const int64_t N = model.tokens();
    std::vector<TableRow> rows;
    for (const Layer& layer :
         {Layer{"qkv", N, model.qkv_columns(), model.D}, Layer{"output", N, model.D, model.D},
          Layer{"up", N, model.gated ? 2 * model.F : model.F, model.D},
          Layer{"down", N, model.D, model.F}, Layer{"head", head_rows, model.V, model.D}}) {
        const auto name = [&](const char* part) {
            return fmt::format("{} {} {}", model.name, layer.name, part);
        };
        const bool with_bias = !model.gated && layer.rows == N;
        rows.push_back(product(name("forward"), layer.rows, layer.columns, layer.width, bf16,
                               {.transpose_b = true}, with_bias));
        rows.push_back(
            product(name("dx"), layer.rows, layer.width, layer.columns, bf16, {}, false));
        rows.push_back(product(name("dweight"), layer.columns, layer.width, layer.rows, f32,
                               {.transpose_a = true}, false));
        rows.push_back(product(name("dweight +="), layer.columns, layer.width, layer.rows, f32,
                               {.transpose_a = true, .accumulate = true}, false));
    }
    return rows;
}

std::vector<TableRow> attention_rows(const ModelSizes& model) {
    const int64_t B = model.B, T = model.T, width = model.H * model.K;
    const kernels::Attention options{.heads = model.H, .kv_heads = model.G};
    struct Tensors {
        View y, log_sum, qkv, dqkv, dy;
    };
    const auto make = [=](DeviceTensors& tensors) {
        const Shape packed{B, T, model.qkv_columns()}, rows{B, T, width};
        return Tensors{.y = tensors.random(rows, bf16),
                       .log_sum = tensors.zeros({B, model.H, T}, f32),
                       .qkv = tensors.random(packed, bf16),
                       .dqkv = tensors.random(packed, bf16),
                       .dy = tensors.random(rows, bf16)};
    };
    // Two products of T x T x K a head, half of them masked; the backward pass has five.
    const double flops = 2.0 * static_cast<double>(B * width) * static_cast<double>(T * T);
    const std::string shape = fmt::format("{}x{} H{} G{} K{}", B, T, model.H, model.G, model.K);
    TableRow forward{.name = model.name + " attention forward",
                     .shape = shape,
                     .work = {.flops = flops},
                     .prepare = {}},
        backward{.name = model.name + " attention backward",
                 .shape = shape,
                 .work = {.flops = 2.5 * flops},
                 .prepare = {}};
    forward.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const Tensors t = make(tensors);
        return [=](Stream& stream) {
            kernels::attention_forward(t.y, t.log_sum, t.qkv, {}, options, stream);
        };
    };
    backward.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const Tensors t = make(tensors);
        auto is_ready = std::make_shared<bool>(false);
        return [=](Stream& stream) {
            if (!*is_ready)  // in the warm-up: y and log_sum that belong to qkv
                kernels::attention_forward(t.y, t.log_sum, t.qkv, {}, options, stream);
            *is_ready = true;
            kernels::attention_backward(t.dqkv, t.dy, t.y, t.log_sum, t.qkv, {}, options, stream);
        };
    };
    return {forward, backward};
}

}  // namespace plinth::test
