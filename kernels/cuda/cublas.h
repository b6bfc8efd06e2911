// SPDX-License-Identifier: Apache-2.0
// What the callers of cuBLASLt share.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <type_traits>

#include "kernels/runtime/error.h"

/// Every cuBLASLt call: a failure is an error of kind io that names the call.
#define CUBLAS_CHECK(call)                                                                 \
    do {                                                                                   \
        const cublasStatus_t cublas_status = (call);                                       \
        if (cublas_status != CUBLAS_STATUS_SUCCESS) [[unlikely]]                           \
            FAIL(io, "cuBLASLt: {} in {}", cublasLtGetStatusString(cublas_status), #call); \
    } while (false)

namespace plinth::kernels::cuda {

/// Owns one of the library's objects.
template <typename Pointer, auto destroy>
struct CublasDeleter {
    void operator()(Pointer object) const { destroy(object); }
};
template <typename Pointer, auto destroy>
using CublasObject =
    std::unique_ptr<std::remove_pointer_t<Pointer>, CublasDeleter<Pointer, destroy>>;

using CublasHandle = CublasObject<cublasLtHandle_t, cublasLtDestroy>;
using MatrixLayout = CublasObject<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using MatmulOperation = CublasObject<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatmulPreference = CublasObject<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

inline CublasHandle make_cublas_handle() {
    cublasLtHandle_t handle = nullptr;
    CUBLAS_CHECK(cublasLtCreate(&handle));
    return CublasHandle(handle);
}

/// Column-major, `leading` elements from a column to the next.
inline MatrixLayout make_layout(cudaDataType type, int64_t rows, int64_t columns, int64_t leading) {
    cublasLtMatrixLayout_t layout = nullptr;
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows),
                                            static_cast<uint64_t>(columns), leading));
    return MatrixLayout(layout);
}

/// Sums and factors are fp32.
inline MatmulOperation make_operation(cublasComputeType_t compute) {
    cublasLtMatmulDesc_t operation = nullptr;
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F));
    return MatmulOperation(operation);
}

inline MatmulPreference make_preference() {
    cublasLtMatmulPreference_t preference = nullptr;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    return MatmulPreference(preference);
}

template <typename T>
void set(const MatmulOperation& operation, cublasLtMatmulDescAttributes_t attribute,
         const T& value) {
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)));
}

template <typename T>
void set(const MatmulPreference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
    CUBLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)));
}

}  // namespace plinth::kernels::cuda
