// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
#include <tuple>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::kernels::cpu {

namespace {

const char* name_of_status(dnnl_status_t status) {
    switch (status) {
        case dnnl_out_of_memory:
            return "out of memory";
        case dnnl_invalid_arguments:
            return "invalid arguments";
        case dnnl_unimplemented:
            return "unimplemented";
        case dnnl_runtime_error:
            return "runtime error";
        default:
            return "unknown error";
    }
}

/// A bf16 product of fixed shape and strides. Many threads may execute it at once because each
/// brings its own scratchpad: the library's own is shared, and concurrent calls give wrong sums.
struct MatmulPrimitive {
    dnnl::memory::desc a, b, c, scratchpad;
    dnnl::matmul primitive;
};

using PrimitiveKey =
    std::tuple<int64_t, int64_t, int64_t, int64_t, bool, int64_t, bool, int, int64_t>;

const dnnl::engine& cpu_engine() {
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

dnnl::memory::desc describe(int64_t rows, int64_t columns, int64_t stride, bool transposed,
                            DType dtype) {
    const auto type =
        dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
    return {{rows, columns},
            type,
            transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

std::shared_ptr<const MatmulPrimitive> bf16_primitive(int64_t m, int64_t n, int64_t k, Operand a,
                                                      Operand b, DType c_dtype, int64_t c_stride) {
    static std::shared_mutex mutex;
    static std::map<PrimitiveKey, std::shared_ptr<const MatmulPrimitive>> cache;
    const PrimitiveKey key{
        m,       n, k, a.stride, a.transposed, b.stride, b.transposed, static_cast<int>(c_dtype),
        c_stride};
    {
        std::shared_lock lock(mutex);
        if (const auto found = cache.find(key); found != cache.end()) return found->second;
    }
    auto made = std::make_shared<MatmulPrimitive>();
    made->a = describe(m, k, a.stride, a.transposed, DType::bf16);
    made->b = describe(k, n, b.stride, b.transposed, DType::bf16);
    made->c = describe(m, n, c_stride, false, c_dtype);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description({made->a, made->b, made->c}, attributes,
                                                   cpu_engine());
    made->scratchpad = description.scratchpad_desc();
    made->primitive = dnnl::matmul(description);
    std::unique_lock lock(mutex);
    return cache.try_emplace(key, std::move(made)).first->second;
}

bool has_bf16_instructions() {
    // oneDNN emulates bf16 where the CPU lacks it, five times slower than fp32: its own word on the
    // ISA decides.
    static const bool has = [] {
        const auto isa = dnnl::get_effective_cpu_isa();
        return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
    }();
    return has;
}

std::vector<float> widened(Operand operand, int64_t rows, int64_t columns) {
    if (operand.transposed) std::swap(rows, columns);
    std::vector<float> wide(static_cast<size_t>(rows * columns));
    const auto* source = static_cast<const BFloat16*>(operand.data);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
            wide[static_cast<size_t>(r * columns + c)] =
                static_cast<float>(source[r * operand.stride + c]);
    return wide;
}

void widened_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
                  int64_t c_stride) {
    const std::vector<float> wide_a = widened(a, m, k);
    const std::vector<float> wide_b = widened(b, k, n);
    const Operand a32{wide_a.data(), a.transposed ? m : k, a.transposed};
    const Operand b32{wide_b.data(), b.transposed ? k : n, b.transposed};
    if (c_dtype == DType::f32) return sgemm(m, n, k, a32, b32, static_cast<float*>(c), c_stride);
    std::vector<float> wide_c(static_cast<size_t>(m * n));
    sgemm(m, n, k, a32, b32, wide_c.data(), n);
    for (int64_t r = 0; r < m; ++r)
        for (int64_t i = 0; i < n; ++i)
            static_cast<BFloat16*>(c)[r * c_stride + i] =
                BFloat16(wide_c[static_cast<size_t>(r * n + i)]);
}

}  // namespace

void sgemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, float* c, int64_t c_stride) {
    omp_set_num_threads(1);  // of this thread: the caller has cut the work already
    const dnnl_status_t status =
        dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f,
                   static_cast<const float*>(a.data), a.stride, static_cast<const float*>(b.data),
                   b.stride, 0.0f, c, c_stride);
    CHECK(status == dnnl_success, "oneDNN sgemm {}x{}x{}: {}", m, n, k, name_of_status(status));
}

void bf16_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
               int64_t c_stride) {
    if (!has_bf16_instructions()) return widened_gemm(m, n, k, a, b, c, c_dtype, c_stride);
    omp_set_num_threads(1);
    const auto primitive = bf16_primitive(m, n, k, a, b, c_dtype, c_stride);
    dnnl::stream stream(cpu_engine());
    const std::unique_ptr<void, decltype(&std::free)> scratch(
        std::aligned_alloc(4096, (primitive->scratchpad.get_size() + 4096) / 4096 * 4096),
        &std::free);
    primitive->primitive.execute(
        stream, {{DNNL_ARG_SRC, {primitive->a, cpu_engine(), const_cast<void*>(a.data)}},
                 {DNNL_ARG_WEIGHTS, {primitive->b, cpu_engine(), const_cast<void*>(b.data)}},
                 {DNNL_ARG_DST, {primitive->c, cpu_engine(), c}},
                 {DNNL_ARG_SCRATCHPAD, {primitive->scratchpad, cpu_engine(), scratch.get()}}});
}

}  // namespace plinth::kernels::cpu
