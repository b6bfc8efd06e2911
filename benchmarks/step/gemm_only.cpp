// SPDX-License-Identifier: Apache-2.0
// What the GEMM library alone reaches: the matrix products of one training step of a GPT, through
// oneDNN with its own threads, and nothing else. No training step that uses this library can be
// faster.
//
//   gemm_only BATCH TOKENS LAYERS WIDTH VOCAB fp32|bf16 THREADS STEPS
//
// Prints the median milliseconds of a step. fp32 is dnnl_sgemm, bf16 the matmul primitive with fp32
// results for the gradients of weights; operands lie as in training: weights (outputs, inputs),
// activations (rows, features).
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

namespace {

using dnnl::memory;
using Type = memory::data_type;

/// A row-major matrix operand, as it is or transposed.
struct Operand {
    void* data;
    int64_t rows, columns;
    bool transposed;
};

/// c (m, n) = a b, ready to be run again and again.
using Product = std::function<void()>;

Product product_fp32(Operand a, Operand b, float* c) {
    const int64_t m = a.transposed ? a.columns : a.rows, k = a.transposed ? a.rows : a.columns,
                  n = b.transposed ? b.rows : b.columns;
    return [=] {
        dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f,
                   static_cast<const float*>(a.data), a.columns, static_cast<const float*>(b.data),
                   b.columns, 0.0f, c, n);
    };
}

memory::desc describe(const Operand& x) {
    return x.transposed ? memory::desc({x.columns, x.rows}, Type::bf16, memory::dims{1, x.columns})
                        : memory::desc({x.rows, x.columns}, Type::bf16, memory::dims{x.columns, 1});
}

Product product_bf16(const dnnl::engine& engine, dnnl::stream& stream, Operand a, Operand b,
                     void* c, Type type) {
    const memory::desc da = describe(a), db = describe(b),
                       dc({da.dims()[0], db.dims()[1]}, type, memory::dims{db.dims()[1], 1});
    const dnnl::matmul primitive(dnnl::matmul::primitive_desc({da, db, dc}, engine));
    const memory ma(da, engine, a.data), mb(db, engine, b.data), mc(dc, engine, c);
    return [=, &stream] {
        primitive.execute(stream, {{DNNL_ARG_SRC, ma}, {DNNL_ARG_WEIGHTS, mb}, {DNNL_ARG_DST, mc}});
        stream.wait();
    };
}

double seconds_of(const std::function<void()>& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 9) {
        std::fprintf(stderr, "gemm_only BATCH TOKENS LAYERS WIDTH VOCAB fp32|bf16 THREADS STEPS\n");
        return 2;
    }
    const int64_t rows = std::atoll(argv[1]) * std::atoll(argv[2]), layers = std::atoll(argv[3]),
                  width = std::atoll(argv[4]), vocab = std::atoll(argv[5]);
    const bool bf16 = std::string(argv[6]) == "bf16";
    omp_set_num_threads(std::atoi(argv[7]));
    const int steps = std::atoi(argv[8]);

    const struct {
        int64_t inputs, outputs, times;
    } linears[] = {{width, 3 * width, layers},
                   {width, width, layers},
                   {width, 4 * width, layers},
                   {4 * width, width, layers},
                   {width, vocab, 1}};
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    std::vector<std::vector<float>> memories;
    const auto zeros = [&](int64_t n) {
        return memories.emplace_back(static_cast<size_t>(n), 0.0f).data();
    };
    std::vector<Product> products;
    for (const auto& linear : linears) {
        // A layer's operands are its own: no product finds them in the cache.
        for (int64_t i = 0; i < linear.times; ++i) {
            float *x = zeros(rows * linear.inputs), *y = zeros(rows * linear.outputs),
                  *w = zeros(linear.outputs * linear.inputs),
                  *dw = zeros(linear.outputs * linear.inputs);
            const auto add = [&](Operand a, Operand b, float* c, Type type) {
                products.push_back(bf16 ? product_bf16(engine, stream, a, b, c, type)
                                        : product_fp32(a, b, c));
            };
            add({x, rows, linear.inputs, false}, {w, linear.outputs, linear.inputs, true}, y,
                Type::bf16);
            add({y, rows, linear.outputs, false}, {w, linear.outputs, linear.inputs, false}, x,
                Type::bf16);
            add({y, rows, linear.outputs, true}, {x, rows, linear.inputs, false}, dw, Type::f32);
        }
    }
    const auto step = [&] {
        for (const Product& product : products)
            product();
    };
    step();
    std::vector<double> times;
    for (int i = 0; i < steps; ++i)
        times.push_back(seconds_of(step));
    std::sort(times.begin(), times.end());
    std::printf("%.1f\n", 1e3 * times[times.size() / 2]);
}
