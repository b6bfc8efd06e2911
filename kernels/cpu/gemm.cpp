// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
#include <tuple>
#include <vector>

#include "kernels/runtime/error.h"
#include "kernels/simd.h"

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

MatmulPrimitive make_primitive(int64_t m, int64_t n, int64_t k, Operand a, Operand b, DType c_dtype,
                               int64_t c_stride) {
    MatmulPrimitive made;
    made.a = describe(m, k, a.stride, a.transposed, DType::bf16);
    made.b = describe(k, n, b.stride, b.transposed, DType::bf16);
    made.c = describe(m, n, c_stride, false, c_dtype);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description({made.a, made.b, made.c}, attributes,
                                                   cpu_engine());
    made.scratchpad = description.scratchpad_desc();
    made.primitive = dnnl::matmul(description);
    return made;
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
    // One thread makes it while the others wait: equal primitives share parts inside the library,
    // and what one thread writes there another would read.
    std::unique_lock lock(mutex);
    if (const auto found = cache.find(key); found != cache.end()) return found->second;
    auto made = std::make_shared<MatmulPrimitive>(make_primitive(m, n, k, a, b, c_dtype, c_stride));
    return cache.emplace(key, std::move(made)).first->second;
}

/// Whether oneDNN's bf16 products are faster than widening to fp32 (benchmarks/RESULTS.md). AMX is;
/// so is vdpbf16ps on AMD, twice the rate of fp32. Intel's cores execute it at half the rate of
/// fp32, and where there is neither oneDNN emulates it, five times slower. The answer depends on
/// the CPU alone: a timing would make the bits of a run depend on chance.
bool has_fast_bf16() {
    static const bool fast = [] {
        const auto isa = dnnl::get_effective_cpu_isa();
        if (isa == dnnl::cpu_isa::avx512_core_amx) return true;
#if defined(__x86_64__)
        return isa == dnnl::cpu_isa::avx512_core_bf16 && __builtin_cpu_is("amd");
#else
        return false;
#endif
    }();
    return fast;
}

void call_sgemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, bool accumulate, float* c,
                int64_t c_stride) {
    omp_set_num_threads(1);  // of this thread: the caller has cut the work already
    const dnnl_status_t status =
        dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f,
                   static_cast<const float*>(a.data), a.stride, static_cast<const float*>(b.data),
                   b.stride, accumulate ? 1.0f : 0.0f, c, c_stride);
    CHECK(status == dnnl_success, "oneDNN sgemm {}x{}x{}: {}", m, n, k, name_of_status(status));
}

PLINTH_SIMD void copy_row(float* to, const float* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = from[i];
}

PLINTH_SIMD void copy_row(float* to, const BFloat16* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = static_cast<float>(from[i]);
}

PLINTH_SIMD void narrow_row(BFloat16* to, const float* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = BFloat16(from[i]);
}

std::unique_ptr<float[]> scratch_of(int64_t elements) {
    return std::make_unique_for_overwrite<float[]>(static_cast<size_t>(elements));
}

/// One operand's part in a block of the inner extent, as fp32 side by side.
template <typename T>
Operand copied(float* to, Operand from, int64_t extent, int64_t k, int64_t k_block, bool k_is_row) {
    const int64_t rows = k_is_row ? k_block : extent, columns = k_is_row ? extent : k_block;
    const T* data = static_cast<const T*>(from.data) + k * (k_is_row ? from.stride : 1);
    for (int64_t r = 0; r < rows; ++r)
        copy_row(to + r * columns, data + r * from.stride, columns);
    return {to, columns, from.transposed};
}

/// Extent of the inner blocks of `blocked_gemm`: two parts of 384 x 384 fp32 stay in a second-level
/// cache.
constexpr int64_t inner_block = 384;

/// The product as a sum over blocks of k, in order, each from copies of its operands' parts. A copy
/// costs about 5 % and widens bf16 at the same time.
template <typename T>
void blocked_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, float* c,
                  int64_t c_stride) {
    const int64_t block = std::min(k, inner_block);
    const auto a_part = scratch_of(m * block), b_part = scratch_of(n * block);
    for (int64_t at = 0; at < k; at += block) {
        const int64_t extent = std::min(block, k - at);
        call_sgemm(m, n, extent, copied<T>(a_part.get(), a, m, at, extent, a.transposed),
                   copied<T>(b_part.get(), b, n, at, extent, !b.transposed), at > 0, c, c_stride);
    }
}

/// sgemm reads a transposed left operand with long rows across many pages, once for each of its
/// own blocks: beyond these extents a copy is 20 to 30 % faster.
bool copying_pays(int64_t k, Operand a) {
    return a.transposed && k > 2 * inner_block && a.stride >= 1024;
}

}  // namespace

void sgemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, float* c, int64_t c_stride) {
    if (copying_pays(k, a)) return blocked_gemm<float>(m, n, k, a, b, c, c_stride);
    call_sgemm(m, n, k, a, b, /*accumulate=*/false, c, c_stride);
}

void widened_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
                  int64_t c_stride) {
    if (c_dtype == DType::f32)
        return blocked_gemm<BFloat16>(m, n, k, a, b, static_cast<float*>(c), c_stride);
    const auto product = scratch_of(m * n);
    blocked_gemm<BFloat16>(m, n, k, a, b, product.get(), n);
    for (int64_t r = 0; r < m; ++r)
        narrow_row(static_cast<BFloat16*>(c) + r * c_stride, product.get() + r * n, n);
}

void library_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
                  int64_t c_stride) {
    omp_set_num_threads(1);
    const auto primitive = bf16_primitive(m, n, k, a, b, c_dtype, c_stride);
    dnnl::stream stream(cpu_engine());
    const PageMemory scratch = page_memory(primitive->scratchpad.get_size());
    primitive->primitive.execute(
        stream, {{DNNL_ARG_SRC, {primitive->a, cpu_engine(), const_cast<void*>(a.data)}},
                 {DNNL_ARG_WEIGHTS, {primitive->b, cpu_engine(), const_cast<void*>(b.data)}},
                 {DNNL_ARG_DST, {primitive->c, cpu_engine(), c}},
                 {DNNL_ARG_SCRATCHPAD, {primitive->scratchpad, cpu_engine(), scratch.get()}}});
}

PageMemory page_memory(size_t bytes) {
    constexpr size_t page = 4096;
    PageMemory memory(std::aligned_alloc(page, (bytes / page + 1) * page), &std::free);
    REQUIRE(io, memory != nullptr,
            "out of memory: the system has no {} bytes left for a matrix product", bytes);
    return memory;
}

void bf16_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
               int64_t c_stride) {
    const auto product = has_fast_bf16() ? &library_gemm : &widened_gemm;
    product(m, n, k, a, b, c, c_dtype, c_stride);
}

bool library_has_bf16() {
    const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
    return (isa & needed) == needed;
}

bool bf16_products_are_native() {
    return has_fast_bf16();
}

}  // namespace plinth::kernels::cpu
