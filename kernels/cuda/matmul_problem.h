// SPDX-License-Identifier: Apache-2.0
// What cuBLASLt is asked for by a row-major product, worked out without a device. The library is
// column-major: a row-major matrix [R, C] with rows `stride` elements apart is to it a matrix
// [C, R] of that leading dimension. So c = op(a) op(b) is asked for as c^T = op(b)^T op(a)^T: the
// library's A is our b, its B our a, its rows are our columns, and each transposition stays as it
// is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/fp8.h"
#include "kernels/gelu.h"
#include "kernels/matmul.h"
#include "kernels/view.h"

namespace plinth::kernels::cuda {

/// What the library's matrices are made of.
enum class Element : uint8_t { f32, bf16, e4m3, e5m2 };

inline Element element_of(DType dtype) {
    CHECK(dtype == DType::f32 || dtype == DType::bf16, "matmul: f32 or bf16, got {}",
          name_of(dtype));
    return dtype == DType::f32 ? Element::f32 : Element::bf16;
}
inline Element element_of(Fp8 format) {
    return format == Fp8::e4m3 ? Element::e4m3 : Element::e5m2;
}
inline const char* name_of(Element element) {
    constexpr const char* names[] = {"f32", "bf16", "e4m3", "e5m2"};
    return names[static_cast<size_t>(element)];
}
inline size_t bytes_of(Element element) {
    return element == Element::f32 ? 4 : element == Element::bf16 ? 2 : 1;
}

/// What the library does to a product, bias added, before it rounds it. It knows GELU by tanh only.
enum class GeluEnd {
    none,
    forward,  ///< keeps it in a second result, aux[m, n], and writes gelu of it
    backward  ///< multiplies it by gelu'(aux)
};

/// D[m, n] = op(A)[m, k] op(B)[k, n] (+ D) (+ bias[m] to each column), all column-major, then GELU
/// or its derivative where asked for. Two calls with equal problems can take the same algorithm.
struct MatmulProblem {
    int64_t m = 0, n = 0, k = 0;
    bool transpose_a = false, transpose_b = false;
    int64_t lda = 0, ldb = 0, ldd = 0;  ///< elements from a column to the next
    Element a = Element::f32, b = Element::f32, d = Element::f32;
    bool has_bias = false;  ///< of the result's dtype
    /// Also the sums of op(B)'s columns, [n]; with GeluEnd::backward those of the result's rows,
    /// [m]. In the result's dtype.
    bool has_bias_grad = false;
    bool accumulates = false;      ///< adds D as it was (beta = 1)
    bool tf32 = false;             ///< fp32 inputs may be rounded to 10-bit mantissas
    bool fast_sums = false;        ///< of 8-bit inputs; see Fp8Matmul
    bool is_reproducible = false;  ///< one result for one input: no split sums
    /// Bytes that divide the addresses: a power of two.
    int64_t alignment_a = 0, alignment_b = 0, alignment_d = 0;
    GeluEnd gelu = GeluEnd::none;
    int64_t ld_aux = 0, alignment_aux = 0;  ///< of aux, which has the result's dtype

    bool operator==(const MatmulProblem&) const = default;
    /// 8-bit inputs bring a scale each.
    bool has_scales() const { return a >= Element::e4m3; }
    int64_t rows_a() const { return transpose_a ? k : m; }
    int64_t columns_a() const { return transpose_a ? m : k; }
    int64_t rows_b() const { return transpose_b ? n : k; }
    int64_t columns_b() const { return transpose_b ? k : n; }
};

/// One line without tabs that tells two problems apart; the key of an AlgorithmTable.
inline std::string text_of(const MatmulProblem& p) {
    const auto aux = [&p](const char* what) {
        return fmt::format("{} ld {} aligned {}", what, p.ld_aux, p.alignment_aux);
    };
    const std::string gelu = p.gelu == GeluEnd::forward    ? aux(" gelu")
                             : p.gelu == GeluEnd::backward ? aux(" gelu'")
                                                           : "";
    const std::string inputs =
        p.a == p.b ? name_of(p.a) : fmt::format("{} {}", name_of(p.a), name_of(p.b));
    return fmt::format("{}x{}x{} {}{} ld {} {} {} {}->{}{}{}{}{}{}{} aligned {} {} {}{}", p.m, p.n,
                       p.k, p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.lda, p.ldb,
                       p.ldd, inputs, name_of(p.d), p.has_bias ? " bias" : "",
                       p.has_bias_grad ? " bias gradient" : "", p.accumulates ? " accumulates" : "",
                       p.tf32 ? " tf32" : "", p.fast_sums ? " fast sums" : "",
                       p.is_reproducible ? " reproducible" : "", p.alignment_a, p.alignment_b,
                       p.alignment_d, gelu);
}

struct MatmulProblemHash {
    size_t operator()(const MatmulProblem& p) const {
        uint64_t hash = 0;
        for (const int64_t word : {p.m,
                                   p.n,
                                   p.k,
                                   p.lda,
                                   p.ldb,
                                   p.ldd,
                                   p.alignment_a,
                                   p.alignment_b,
                                   p.alignment_d,
                                   static_cast<int64_t>(p.a),
                                   static_cast<int64_t>(p.b),
                                   static_cast<int64_t>(p.d),
                                   int64_t{p.transpose_a},
                                   int64_t{p.transpose_b},
                                   int64_t{p.has_bias},
                                   int64_t{p.has_bias_grad},
                                   int64_t{p.accumulates},
                                   int64_t{p.tf32},
                                   int64_t{p.fast_sums},
                                   int64_t{p.is_reproducible},
                                   static_cast<int64_t>(p.gelu),
                                   p.ld_aux,
                                   p.alignment_aux})
            hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15u + (hash >> 29);
        return static_cast<size_t>(hash);
    }
};

/// How a call of `matmul` is done: by the library alone, or by the library into fp32 scratch and a
/// kernel that adds the bias or the former c, and rounds.
struct MatmulPlan {
    MatmulProblem problem;
    bool is_finished_apart = false;
    /// The library wants the bias in c's dtype and on an address that 16 bytes divide: it is put
    /// into scratch first.
    bool copies_bias = false;
};

/// The largest power of two up to `limit` that divides the address.
inline int64_t alignment_of(const void* data, int64_t limit) {
    const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data));
    return address == 0 ? limit : std::min(limit, address & -address);
}

/// From one row to the next. The stride of a single row says nothing and may be too short.
inline int64_t leading_dimension(const ConstView& matrix) {
    const int64_t columns = std::max<int64_t>(1, matrix.dim(1));
    if (matrix.dim(0) <= 1) return columns;
    CHECK(matrix.stride(0) >= columns, "matmul: rows of {} elements that are {} apart",
          matrix.dim(1), matrix.stride(0));
    return matrix.stride(0);
}

/// Throws an internal error unless the operands fit.
inline void check_matmul(const View& c, const ConstView& a, const ConstView& b,
                         const ConstView& bias, const Matmul& options) {
    CHECK(c.shape.rank() == 2 && a.shape.rank() == 2 && b.shape.rank() == 2,
          "matmul takes matrices, got {} = {} x {}", c.shape.text(), a.shape.text(),
          b.shape.text());
    const int64_t m = c.dim(0), n = c.dim(1), k = a.dim(options.transpose_a ? 0 : 1);
    CHECK(a.dim(options.transpose_a ? 1 : 0) == m && b.dim(options.transpose_b ? 1 : 0) == k &&
              b.dim(options.transpose_b ? 0 : 1) == n && a.dtype == b.dtype &&
              (!bias || bias.elements() == n),
          "matmul: {} = {}{} x {}{} does not fit", c.shape.text(), a.shape.text(),
          options.transpose_a ? "^T" : "", b.shape.text(), options.transpose_b ? "^T" : "");
    for (const DType dtype : {a.dtype, c.dtype})
        CHECK(dtype == DType::f32 || dtype == DType::bf16, "matmul: f32 or bf16, got {}",
              name_of(dtype));
    CHECK(!(options.accumulate && bias), "matmul: bias and accumulate exclude each other");
    CHECK(a.dtype != DType::f32 || c.dtype == DType::f32 || options.accumulate || bias,
          "matmul: fp32 operands give fp32, not {}", name_of(c.dtype));
}

/// The largest alignment that tells problems apart. An allocator's history must not choose the
/// algorithm where bits are promised: 16 bytes are the widest access, and above them only the
/// library's own default counts.
inline int64_t alignment_limit(const StreamOptions& stream) {
    return stream.reproducible ? 16 : 256;
}

/// Where the product goes: into c, or into scratch. What is only added from there is the problem
/// that would go into c, so that a gradient has the same bits wherever it stands in a lane;
/// `apart`, where the library refuses that one, its rows begin at multiples of 16 bytes.
inline void plan_result(MatmulPlan& plan, const View& c, const ConstView& bias, bool accumulate,
                        const StreamOptions& stream, bool apart) {
    MatmulProblem& p = plan.problem;
    p.m = c.dim(1);
    p.n = c.dim(0);
    p.is_reproducible = stream.reproducible;
    if (plan.is_finished_apart) {
        const bool is_as_in_c = accumulate && c.dtype == DType::f32 && !apart;
        p.d = Element::f32;
        p.ldd = is_as_in_c ? leading_dimension(c) : (p.m + 3) / 4 * 4;
        p.alignment_d =
            is_as_in_c ? alignment_of(c.data, alignment_limit(stream)) : alignment_limit(stream);
    } else {
        p.d = element_of(c.dtype);
        p.ldd = leading_dimension(c);
        p.alignment_d = alignment_of(c.data, alignment_limit(stream));
        p.has_bias = static_cast<bool>(bias);
        p.accumulates = accumulate;
        plan.copies_bias =
            p.has_bias && (c.dtype != DType::f32 || alignment_of(bias.data, 16) < 16);
    }
}

/// For operands that fit. `apart` asks for the way through scratch where the library refuses the
/// direct one.
inline MatmulPlan plan_matmul(const View& c, const ConstView& a, const ConstView& b,
                              const ConstView& bias, const Matmul& options,
                              const StreamOptions& stream, bool apart = false) {
    MatmulPlan plan;
    MatmulProblem& p = plan.problem;
    plan.is_finished_apart = apart || (options.accumulate && stream.reproducible) ||
                             (a.dtype == DType::f32 && c.dtype != DType::f32);
    p.k = a.dim(options.transpose_a ? 0 : 1);
    p.transpose_a = options.transpose_b;
    p.transpose_b = options.transpose_a;
    p.lda = leading_dimension(b);
    p.ldb = leading_dimension(a);
    p.a = element_of(b.dtype);
    p.b = element_of(a.dtype);
    p.tf32 = stream.tf32 && a.dtype == DType::f32;
    p.alignment_a = alignment_of(b.data, alignment_limit(stream));
    p.alignment_b = alignment_of(a.data, alignment_limit(stream));
    plan_result(plan, c, bias, options.accumulate, stream, apart);
    return plan;
}

/// The same for 8-bit operands, which the library takes in one layout only: A transposed.
inline MatmulPlan plan_fp8_matmul(const View& c, const ConstView& a, const ConstView& b,
                                  const ConstView& bias, const Fp8Matmul& options,
                                  const StreamOptions& stream, bool apart = false) {
    MatmulPlan plan;
    MatmulProblem& p = plan.problem;
    plan.is_finished_apart = apart || (options.accumulate && stream.reproducible);
    p.k = p.lda = p.ldb = a.dim(1);
    p.transpose_a = true;
    p.a = element_of(options.b);
    p.b = element_of(options.a);
    p.fast_sums = options.fast_sums;
    p.alignment_a = alignment_of(b.data, alignment_limit(stream));
    p.alignment_b = alignment_of(a.data, alignment_limit(stream));
    plan_result(plan, c, bias, options.accumulate, stream, apart);
    return plan;
}

/// Whether the library's GELU can stand behind a product of these types with this aux: that by
/// tanh, in bf16, with rows of aux that begin at multiples of 16 bytes.
inline bool takes_gelu(const View& result, const ConstView& a, const ConstView& aux, Gelu form,
                       const Matmul& options) {
    return form == Gelu::tanh && a.dtype == DType::bf16 && result.dtype == DType::bf16 &&
           aux.dtype == DType::bf16 && a.dim(options.transpose_a ? 0 : 1) > 0 &&
           leading_dimension(aux) % 8 == 0 && alignment_of(aux.data, 16) == 16;
}

/// The plan of h = gelu(pre), pre = op(a) op(b) + bias, by the library alone; none where it takes a
/// product and a kernel of its own. The library applies GELU before it rounds pre. Where bits are
/// promised, gelu of the rounded pre must give h again, which rules the library's out.
inline std::optional<MatmulPlan> plan_matmul_gelu(const View& h, const View& pre,
                                                  const ConstView& a, const ConstView& b,
                                                  const ConstView& bias, Gelu form,
                                                  const Matmul& options,
                                                  const StreamOptions& stream) {
    if (stream.reproducible || !takes_gelu(h, a, pre, form, options)) return {};
    MatmulPlan plan = plan_matmul(h, a, b, bias, options, stream);
    plan.problem.gelu = GeluEnd::forward;
    plan.problem.ld_aux = leading_dimension(pre);
    plan.problem.alignment_aux = alignment_of(pre.data, 256);
    return plan;
}

/// The same of dpre = (op(a) op(b)) gelu'(pre). Here pre is only read.
inline std::optional<MatmulPlan> plan_matmul_gelu_backward(const View& dpre, const ConstView& a,
                                                           const ConstView& b, const ConstView& pre,
                                                           Gelu form, const Matmul& options,
                                                           const StreamOptions& stream) {
    if (!takes_gelu(dpre, a, pre, form, options)) return {};
    MatmulPlan plan = plan_matmul(dpre, a, b, {}, options, stream);
    plan.problem.gelu = GeluEnd::backward;
    plan.problem.ld_aux = leading_dimension(pre);
    plan.problem.alignment_aux = alignment_of(pre.data, stream.reproducible ? 16 : 256);
    return plan;
}

}  // namespace plinth::kernels::cuda
