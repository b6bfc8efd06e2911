// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>
#include <sstream>

#include "benchmarks/gpu/model_rows.h"
#include "kernels/attention.h"
#include "kernels/bias_grad.h"
#include "kernels/fp8.h"
#include "kernels/gelu_mlp.h"
#include "kernels/matmul.h"

namespace plinth::test {

namespace {

constexpr DType bf16 = DType::bf16, f32 = DType::f32;

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

/// The MLP's first product with GELU behind it, or that of the gradient of its second one.
TableRow gelu_product(const ModelSizes& model, bool is_backward) {
    const int64_t N = model.tokens(), D = model.D, F = model.F;
    TableRow row{.name = fmt::format("{} {}", model.name,
                                     is_backward ? "down dx, gelu backward" : "up, gelu forward"),
                 .shape = fmt::format("{}x{}x{}", N, F, D),
                 .work = {.flops = 2.0 * static_cast<double>(N) * static_cast<double>(F) *
                                   static_cast<double>(D)},
                 .prepare = {}};
    row.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View out = tensors.random({N, F}, bf16), pre = tensors.random({N, F}, bf16),
                   a = tensors.random({N, D}, bf16);
        if (is_backward) {
            const View weight = tensors.random({D, F}, bf16, 0.02f);
            return [=](Stream& stream) {
                kernels::matmul_gelu_backward(out, a, weight, pre, kernels::Gelu::tanh, {}, stream);
            };
        }
        const View weight = tensors.random({F, D}, bf16, 0.02f), bias = tensors.random({F}, f32);
        return [=](Stream& stream) {
            kernels::matmul_gelu(out, pre, a, weight, bias, kernels::Gelu::tanh,
                                 {.transpose_b = true}, stream);
        };
    };
    return row;
}

/// A call that says so, after its first run, where the library has not summed the bias gradient of
/// its product, m x n x k to the library.
KernelCall sure_of_the_library(KernelCall call, int64_t m, int64_t n, int64_t k) {
    auto is_sure = std::make_shared<bool>(false);
    const std::string extents = fmt::format("{}x{}x{} ", m, n, k);
    return [=](Stream& stream) {
        call(stream);
        if (*is_sure) return;
        std::string algorithms, line;
        kernels::save_matmul_algorithms(algorithms, stream);
        for (std::istringstream lines(algorithms); std::getline(lines, line);)
            *is_sure = *is_sure || (line.find(extents) != std::string::npos &&
                                    line.find(" bias gradient") != std::string::npos);
        REQUIRE(io, *is_sure, "cuBLASLt has no algorithm");
    };
}

/// Weight and bias gradients of a layer, y[N, columns] = x[N, width] W^T + bias: in one product, or
/// in a product and a kernel.
TableRow dbias_product(const ModelSizes& model, const char* layer, int64_t columns, int64_t width,
                       bool by_library) {
    const int64_t N = model.tokens();
    TableRow row{.name = fmt::format("{} {} dweight, dbias {}", model.name, layer,
                                     by_library ? "by library" : "apart"),
                 .shape = fmt::format("{}x{}x{}", columns, width, N),
                 .work = {.flops = 2.0 * static_cast<double>(columns) * static_cast<double>(width) *
                                   static_cast<double>(N)},
                 .prepare = {},
                 .may_be_refused = by_library};
    row.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View dweight = tensors.random({columns, width}, f32),
                   dbias = tensors.zeros({columns}, f32), dy = tensors.random({N, columns}, bf16),
                   x = tensors.random({N, width}, bf16);
        if (by_library)
            return sure_of_the_library(
                [=](Stream& stream) { kernels::linear_grads(dweight, dbias, dy, x, stream); },
                width, columns, N);
        return [=](Stream& stream) {
            kernels::matmul(dweight, dy, x, {}, {.transpose_a = true}, stream);
            kernels::column_sum(dbias, dy, stream);
        };
    };
    return row;
}

/// The gradient before GELU and that of the first layer's bias.
TableRow gelu_dbias_product(const ModelSizes& model, bool by_library) {
    const int64_t N = model.tokens(), D = model.D, F = model.F;
    TableRow row = gelu_product(model, true);
    row.name += by_library ? ", dbias by library" : ", dbias apart";
    row.may_be_refused = by_library;
    row.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View dpre = tensors.random({N, F}, bf16), dbias = tensors.zeros({F}, f32),
                   dy = tensors.random({N, D}, bf16), weight = tensors.random({D, F}, bf16, 0.02f),
                   pre = tensors.random({N, F}, bf16);
        if (by_library)
            return sure_of_the_library(
                [=](Stream& stream) {
                    kernels::gelu_linear_grads(dpre, dbias, dy, weight, pre, stream);
                },
                F, N, D);
        return [=](Stream& stream) {
            kernels::matmul_gelu_backward(dpre, dy, weight, pre, kernels::Gelu::tanh, {}, stream);
            kernels::column_sum(dbias, dpre, stream);
        };
    };
    return row;
}

}  // namespace

std::vector<TableRow> ceiling_rows(bool is_tiny) {
    const int64_t size = int64_t{1} << (is_tiny ? 12 : 28), extent = is_tiny ? 64 : 8192;
    TableRow copy{.name = "copy",
                  .shape = is_tiny ? "16 KiB" : "1 GiB",
                  .work = {.bytes = 8.0 * static_cast<double>(size)},
                  .prepare = [size](DeviceTensors& tensors) -> KernelCall {
                      const View to = tensors.random({size}, f32),
                                 from = tensors.random({size}, f32);
                      return [=](Stream& stream) { stream.copy(to.data, from.data, to.bytes()); };
                  }};
    return {copy,
            product("matmul 8192", extent, extent, extent, bf16, {.transpose_b = true}, false)};
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
          Layer{"down", N, model.D, model.F}, Layer{"head", model.head_tokens, model.V, model.D}}) {
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
    if (model.gated) return rows;
    for (const bool is_backward : {false, true})
        rows.push_back(gelu_product(model, is_backward));
    for (const bool by_library : {false, true}) {
        rows.push_back(dbias_product(model, "qkv", model.qkv_columns(), model.D, by_library));
        rows.push_back(dbias_product(model, "output", model.D, model.D, by_library));
        rows.push_back(dbias_product(model, "down", model.D, model.F, by_library));
        rows.push_back(gelu_dbias_product(model, by_library));
    }
    return rows;
}

namespace {

/// The three products of a layer with 8-bit operands that are there already.
TableRow fp8_product(const std::string& name, int64_t m, int64_t n, int64_t k, DType out,
                     kernels::Fp8Matmul options) {
    TableRow row{.name = name,
                 .shape = fmt::format("{}x{}x{}", m, n, k),
                 .work = {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) *
                                   static_cast<double>(k)},
                 .prepare = {}};
    row.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View c = tensors.random({m, n}, out), x = tensors.random({m, k}, bf16),
                   w = tensors.random({n, k}, bf16, 0.02f), scales = tensors.zeros({2}, f32);
        // Two 8-bit elements are as long as a bf16 one.
        View a = tensors.zeros({m, k / 2}, bf16), b = tensors.zeros({n, k / 2}, bf16);
        a = View(a.data, DType::u8, {m, k}, a.device);
        b = View(b.data, DType::u8, {n, k}, b.device);
        auto* first = static_cast<float*>(scales.data);
        const View scale_a(first, f32, {1}, scales.device),
            scale_b(first + 1, f32, {1}, scales.device);
        auto is_ready = std::make_shared<bool>(false);
        return [=](Stream& stream) {
            if (!*is_ready) {  // in the warm-up
                kernels::fp8_scale(scale_a, x, {}, options.a, stream);
                kernels::fp8_scale(scale_b, w, {}, options.b, stream);
                kernels::fp8_quantize(a, {}, {}, x, scale_a, options.a, stream);
                kernels::fp8_quantize(b, {}, {}, w, scale_b, options.b, stream);
            }
            *is_ready = true;
            kernels::fp8_matmul(c, a, b, {}, scale_a, scale_b, options, stream);
        };
    };
    return row;
}

}  // namespace

std::vector<TableRow> fp8_rows(const ModelSizes& model) {
    const int64_t N = model.tokens(), F = model.F, D = model.D;
    const auto name = [&](const char* part) { return fmt::format("{} fp8 {}", model.name, part); };
    const double elements = static_cast<double>(N) * static_cast<double>(F);
    // Read for the largest magnitude, then read and written in both layouts.
    TableRow quantize{.name = name("scale, quantize"),
                      .shape = Shape{N, F}.text(),
                      .work = {.bytes = elements * (2 + 2 + 1 + 1)},
                      .prepare = {}};
    quantize.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const View x = tensors.random({N, F}, bf16), scale = tensors.zeros({1}, f32);
        View y = tensors.zeros({N, F / 2}, bf16), turned = tensors.zeros({F, N / 2}, bf16);
        y = View(y.data, DType::u8, {N, F}, y.device);
        turned = View(turned.data, DType::u8, {F, N}, turned.device);
        return [=](Stream& stream) {
            kernels::fp8_scale(scale, x, {}, kernels::Fp8::e4m3, stream);
            kernels::fp8_quantize(y, turned, {}, x, scale, kernels::Fp8::e4m3, stream);
        };
    };
    using kernels::Fp8;
    return {quantize, fp8_product(name("up forward"), N, F, D, bf16, {.fast_sums = true}),
            fp8_product(name("up dx"), N, D, F, bf16, {.a = Fp8::e5m2}),
            fp8_product(name("up dweight"), F, D, N, f32, {.a = Fp8::e5m2})};
}

namespace {

/// A mask that cuDNN does not take, or none.
struct AttentionVariant {
    const char* name;
    float dropout = 0.0f;
    bool alibi = false;
    int64_t document = 0;  ///< tokens of each; 0: no documents
};

/// Forward and backward of one variant.
std::vector<TableRow> rows_of(const ModelSizes& model, const AttentionVariant& variant) {
    const int64_t B = model.B, T = model.T, width = model.H * model.K;
    const kernels::Attention options{
        .heads = model.H, .kv_heads = model.G, .dropout = variant.dropout};
    struct Tensors {
        View y, log_sum, qkv, dqkv, dy;
        kernels::AttentionMask mask;
    };
    const auto make = [=](DeviceTensors& tensors) {
        const Shape packed{B, T, model.qkv_columns()}, rows{B, T, width};
        Tensors t{.y = tensors.random(rows, bf16),
                  .log_sum = tensors.zeros({B, model.H, T}, f32),
                  .qkv = tensors.random(packed, bf16),
                  .dqkv = tensors.random(packed, bf16),
                  .dy = tensors.random(rows, bf16),
                  .mask = {}};
        if (variant.alibi) t.mask.slopes = tensors.random({model.H}, f32, 0.1f);
        if (variant.document > 0) t.mask.documents = tensors.document_ids({B, T}, variant.document);
        if (variant.dropout > 0.0f) t.mask.samples = tensors.sample_numbers(B);
        return t;
    };
    // Two products of L x L x K a head and document of L tokens, half of them masked; the backward
    // pass has five.
    const auto seen = static_cast<double>(variant.document > 0 ? variant.document : T);
    const double flops = 2.0 * static_cast<double>(B * width) * static_cast<double>(T) * seen;
    const std::string shape = fmt::format("{}x{} H{} G{} K{}", B, T, model.H, model.G, model.K);
    const auto name = [&](const char* pass) {
        return fmt::format("{} attention{} {}", model.name, variant.name, pass);
    };
    TableRow forward{
        .name = name("forward"), .shape = shape, .work = {.flops = flops}, .prepare = {}},
        backward{.name = name("backward"),
                 .shape = shape,
                 .work = {.flops = 2.5 * flops},
                 .prepare = {}};
    forward.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const Tensors t = make(tensors);
        return [=](Stream& stream) {
            kernels::attention_forward(t.y, t.log_sum, t.qkv, t.mask, options, stream);
        };
    };
    backward.prepare = [=](DeviceTensors& tensors) -> KernelCall {
        const Tensors t = make(tensors);
        auto is_ready = std::make_shared<bool>(false);
        return [=](Stream& stream) {
            if (!*is_ready)  // in the warm-up: y and log_sum that belong to qkv
                kernels::attention_forward(t.y, t.log_sum, t.qkv, t.mask, options, stream);
            *is_ready = true;
            kernels::attention_backward(t.dqkv, t.dy, t.y, t.log_sum, t.qkv, t.mask, options,
                                        stream);
        };
    };
    return {forward, backward};
}

}  // namespace

std::vector<TableRow> attention_rows(const ModelSizes& model) {
    std::vector<TableRow> rows;
    // "one document" is the plain mask by the own kernels: beside cuDNN's row it is their price.
    for (const AttentionVariant& variant :
         {AttentionVariant{.name = ""},
          AttentionVariant{.name = " one document", .document = model.T},
          AttentionVariant{.name = " documents of 256", .document = 256},
          AttentionVariant{.name = " alibi", .alibi = true},
          AttentionVariant{.name = " dropout", .dropout = 0.1f}})
        for (const TableRow& row : rows_of(model, variant))
            rows.push_back(row);
    return rows;
}

}  // namespace plinth::test
