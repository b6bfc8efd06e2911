// SPDX-License-Identifier: Apache-2.0
// The instructions around the matrix units of compute capability 8.0 and later, one function each
// (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions" and "cp.async"). Which lane holds
// which element is said by tensor_core_layout.h. Functions of a warp are called by all its lanes
// together; addresses are multiples of 16 bytes.
#pragma once

#include <cstdint>

namespace plinth::kernels::cuda {

/// d [16, 8] += a [16, 16] b [16, 8]: bf16 factors, fp32 sums.
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices of 8 x 8 elements of 16 bits in shared memory: lane l gives the address of row
/// l % 8 of matrix l / 8. r[m] is elements 2 (l % 4) and the next of row l / 4 of matrix m.
__device__ inline void load_matrix_x4(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}

/// The same of the transposed matrices: r[m] is elements l / 4 of rows 2 (l % 4) and the next.
__device__ inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}

/// Begins to copy `bytes`, 0 to 16, from global to shared memory; the rest of 16 become zeros.
__device__ inline void copy_async_16(void* shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(bytes)
                 : "memory");
}

/// What this thread began to copy since the last call is a group.
__device__ inline void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Until at most the latest `Pending` of this thread's groups are under way. Other threads see the
/// others' bytes after a barrier.
template <int Pending>
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// 2^x, relative error 2^-22; 0 where that would be subnormal.
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace plinth::kernels::cuda
