// SPDX-License-Identifier: Apache-2.0
// The cuBLASLt functions that Plinth calls, over host memory: D = epilogue(alpha A B + beta C) of
// column-major matrices, summed in fp32. It proposes two algorithms of different bits, of which the
// second splits its sums and writes all of its workspace, and refuses what the library refuses.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "tests/emulation/runtime.h"

namespace {

struct Layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t leading;

    int64_t at(int64_t row, int64_t column) const { return column * leading + row; }
};

struct Operation {
    cublasComputeType_t compute;
    cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void* bias = nullptr;  ///< or where its gradient goes
    void* aux = nullptr;
    const float *scale_a = nullptr, *scale_b = nullptr;
    int64_t ld_aux = 0;
    int32_t bias_type = CUDA_R_32F, aux_type = CUDA_R_16BF;
    int8_t fast_sums = 0;
};

struct Preference {
    uint32_t reduction_schemes = ~0u;
    uint64_t workspace_limit = 0;
};

/// What an algorithm is: its number in the first word.
constexpr int plain = 1, splitting = 2;
constexpr size_t workspace_bytes = 4096;

const Layout& of(cublasLtMatrixLayout_t layout) {
    return *reinterpret_cast<const Layout*>(layout);
}
Operation& of(cublasLtMatmulDesc_t operation) {
    return *reinterpret_cast<Operation*>(operation);
}

bool is_fp8(cudaDataType type) {
    return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

float value(const void* data, cudaDataType type, int64_t at) {
    switch (type) {
        case CUDA_R_32F:
            return static_cast<const float*>(data)[at];
        case CUDA_R_16BF:
            return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
        case CUDA_R_8F_E4M3:
            return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[at]);
        default:
            return static_cast<float>(static_cast<const __nv_fp8_e5m2*>(data)[at]);
    }
}

void store(void* data, cudaDataType type, int64_t at, float x) {
    if (type == CUDA_R_32F)
        static_cast<float*>(data)[at] = x;
    else
        static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(x);
}

/// Ten bits of mantissa, to the nearest, ties away from zero (PTX: cvt.rna.tf32.f32).
float tf32(float x) {
    return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x1000u) & 0xffffe000u);
}

float gelu(float x) {
    constexpr float root = 0.7978845608028654f;
    return 0.5f * x * (1.0f + std::tanh(root * (x + 0.044715f * x * x * x)));
}
float gelu_slope(float x) {
    constexpr float root = 0.7978845608028654f;
    const float t = std::tanh(root * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * root * (1.0f + 3 * 0.044715f * x * x);
}

bool has_bias(cublasLtEpilogue_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

bool has_bias_grad(cublasLtEpilogue_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB ||
           epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
}

struct Product {
    Operation operation;
    Layout a, b, d;
    const void *a_data, *b_data;
    void* d_data;
    float alpha, beta;
    int algorithm;
    void* workspace;

    void run() const {
        const auto m = static_cast<int64_t>(d.rows), n = static_cast<int64_t>(d.columns);
        const bool turned_a = operation.transpose_a == CUBLAS_OP_T;
        const auto k = static_cast<int64_t>(turned_a ? a.rows : a.columns);
        if (algorithm == splitting) std::memset(workspace, 0xFF, workspace_bytes);
        // [m][k] and [n][k]
        const std::vector<float> left = operand(a_data, a, m, k, !turned_a);
        const std::vector<float> right =
            operand(b_data, b, n, k, operation.transpose_b == CUBLAS_OP_T);
        float scale = alpha;
        if (operation.scale_a) scale *= *operation.scale_a;
        if (operation.scale_b) scale *= *operation.scale_b;
        // Of A's rows or B's columns, over the inner extent.
        if (operation.epilogue == CUBLASLT_EPILOGUE_BGRADA) store_sums(left, m, k);
        if (operation.epilogue == CUBLASLT_EPILOGUE_BGRADB) store_sums(right, n, k);
        std::vector<float> results;  // [m][n], before they are rounded
        if (operation.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD)
            results.resize(static_cast<size_t>(m * n));
        for (int64_t j = 0; j < n; ++j)
            for (int64_t i = 0; i < m; ++i) {
                const float* x = left.data() + i * k;
                const float* y = right.data() + j * k;
                float sum;
                if (algorithm == splitting)
                    sum = dot(x, y, k / 2) + dot(x + k / 2, y + k / 2, k - k / 2);
                else
                    sum = dot(x, y, k);
                const float result = finish(i, j, scale * sum);
                if (!results.empty()) results[static_cast<size_t>(i * n + j)] = result;
            }
        if (!results.empty()) store_sums(results, m, n);
    }

  private:
    /// [outer][inner]: element (o, i) is that of row o of the matrix, or of its column o.
    std::vector<float> operand(const void* data, const Layout& layout, int64_t outer, int64_t inner,
                               bool by_rows) const {
        std::vector<float> values(static_cast<size_t>(outer * inner));
        const bool rounds = operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t i = 0; i < inner; ++i) {
                const float x =
                    value(data, layout.type, by_rows ? layout.at(o, i) : layout.at(i, o));
                values[static_cast<size_t>(o * inner + i)] = rounds ? tf32(x) : x;
            }
        return values;
    }

    static float dot(const float* x, const float* y, int64_t k) {
        float sums[8] = {};
        int64_t i = 0;
        for (; i + 8 <= k; i += 8)
            for (int lane = 0; lane < 8; ++lane)
                sums[lane] += x[i + lane] * y[i + lane];
        for (; i < k; ++i)
            sums[0] += x[i] * y[i];
        return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
               ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }

    /// The bias gradient: the sums of `outer` runs of `inner` values.
    void store_sums(const std::vector<float>& values, int64_t outer, int64_t inner) const {
        for (int64_t o = 0; o < outer; ++o) {
            float sum = 0.0f;
            for (int64_t i = 0; i < inner; ++i)
                sum += values[static_cast<size_t>(o * inner + i)];
            store(operation.bias, static_cast<cudaDataType>(operation.bias_type), o, sum);
        }
    }

    /// Stores an element and returns it as it was before it was rounded.
    float finish(int64_t i, int64_t j, float result) const {
        if (has_bias(operation.epilogue))
            result += value(operation.bias, static_cast<cudaDataType>(operation.bias_type), i);
        const auto aux_type = static_cast<cudaDataType>(operation.aux_type);
        const int64_t aux_at = j * operation.ld_aux + i;
        if (operation.epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
            operation.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
            store(operation.aux, aux_type, aux_at, result);
            result = gelu(result);
        } else if (operation.epilogue == CUBLASLT_EPILOGUE_DGELU ||
                   operation.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
            result *= gelu_slope(value(operation.aux, aux_type, aux_at));
        }
        if (beta != 0.0f) result += beta * value(d_data, d.type, d.at(i, j));
        store(d_data, d.type, d.at(i, j), result);
        return result;
    }
};

/// What the library documents as supported, as far as Plinth may ask for it.
bool is_supported(const Operation& operation, const Layout& a, const Layout& b, const Layout& d) {
    if (is_fp8(a.type) != is_fp8(b.type)) return false;
    // A bias gradient has the result's type.
    if (has_bias_grad(operation.epilogue) && (operation.bias_type != d.type || is_fp8(a.type)))
        return false;
    if (is_fp8(a.type))
        return operation.transpose_a == CUBLAS_OP_T && operation.transpose_b == CUBLAS_OP_N &&
               !(a.type == CUDA_R_8F_E5M2 && b.type == CUDA_R_8F_E5M2) && a.rows % 16 == 0 &&
               d.rows * (d.type == CUDA_R_32F ? 4 : 2) % 16 == 0 && a.leading % 16 == 0 &&
               b.leading % 16 == 0;
    return a.type == b.type && (a.type == CUDA_R_16BF || d.type == CUDA_R_32F);
}

cublasLtMatmulAlgo_t algorithm_of(int number) {
    cublasLtMatmulAlgo_t algorithm{};
    algorithm.data[0] = static_cast<uint64_t>(number);
    return algorithm;
}

cublasLtMatmulHeuristicResult_t result_of(int number) {
    cublasLtMatmulHeuristicResult_t result{};
    result.algo = algorithm_of(number);
    result.workspaceSize = number == splitting ? workspace_bytes : 0;
    result.state = CUBLAS_STATUS_SUCCESS;
    return result;
}

template <typename T>
cublasStatus_t read(T& into, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&into, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() {
    return CUBLAS_VERSION;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_NOT_SUPPORTED   ? "CUBLAS_STATUS_NOT_SUPPORTED"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                                   : "CUBLAS_STATUS of the emulated device";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete reinterpret_cast<int*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(const cublasLtMatrixLayout_t layout) {
    delete reinterpret_cast<Layout*>(layout);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType) {
    *operation = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation{.compute = compute});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(const cublasLtMatmulDesc_t operation) {
    delete reinterpret_cast<Operation*>(operation);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
    Operation& o = of(operation);
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA:
            return read(o.transpose_a, from, bytes);
        case CUBLASLT_MATMUL_DESC_TRANSB:
            return read(o.transpose_b, from, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            return read(o.epilogue, from, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
            return read(o.bias, from, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
            return read(o.bias_type, from, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
            return read(o.aux, from, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
            return read(o.ld_aux, from, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
            return read(o.aux_type, from, bytes);
        case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
            return read(o.scale_a, from, bytes);
        case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
            return read(o.scale_b, from, bytes);
        case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
            return read(o.fast_sums, from, bytes);
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(const cublasLtMatmulPreference_t preference) {
    delete reinterpret_cast<Preference*>(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* from, size_t bytes) {
    auto& p = *reinterpret_cast<Preference*>(preference);
    uint32_t alignment = 0;
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            return read(p.reduction_schemes, from, bytes);
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            return read(p.workspace_limit, from, bytes);
        default:  // alignments
            return read(alignment, from, bytes);
    }
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
    *count = 0;
    if (!is_supported(of(operation), of(a), of(b), of(d))) return CUBLAS_STATUS_NOT_SUPPORTED;
    const auto& p = *reinterpret_cast<const Preference*>(preference);
    results[(*count)++] = result_of(plain);
    if (most > 1 && p.reduction_schemes != CUBLASLT_REDUCTION_SCHEME_NONE &&
        p.workspace_limit >= workspace_bytes)
        results[(*count)++] = result_of(splitting);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
    const auto number = static_cast<int>(algorithm->data[0]);
    if (number != plain && number != splitting) return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(of(operation), of(a), of(b), of(d))) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = result_of(number);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void* to, size_t bytes, size_t* written) {
    const bool splits = algorithm->data[0] == static_cast<uint64_t>(splitting);
    if (bytes != sizeof(uint32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    uint32_t found = 0;
    if (attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM)
        found = splits ? 2 : 1;
    else if (attribute == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)
        found = splits ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
    else
        return CUBLAS_STATUS_NOT_SUPPORTED;
    std::memcpy(to, &found, bytes);
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a_data, cublasLtMatrixLayout_t a, const void* b_data,
                              cublasLtMatrixLayout_t b, const void* beta, const void* c_data,
                              cublasLtMatrixLayout_t, void* d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t bytes,
                              cudaStream_t stream) {
    const auto number = static_cast<int>(algorithm->data[0]);
    if (!is_supported(of(operation), of(a), of(b), of(d))) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (c_data != d_data || (number == splitting && (!workspace || bytes < workspace_bytes)))
        return CUBLAS_STATUS_INVALID_VALUE;
    const Product product{.operation = of(operation),
                          .a = of(a),
                          .b = of(b),
                          .d = of(d),
                          .a_data = a_data,
                          .b_data = b_data,
                          .d_data = d_data,
                          .alpha = *static_cast<const float*>(alpha),
                          .beta = *static_cast<const float*>(beta),
                          .algorithm = number,
                          .workspace = workspace};
    const cudaError_t status = emulation::enqueue(stream, [product] {
        product.run();
        return cudaSuccess;
    });
    return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
