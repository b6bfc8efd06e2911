// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/runtime/dtype.h"

namespace plinth::kernels::cpu {

/// A matrix as stored: `stride` elements from one row to the next. `transposed` means that the
/// operand is its transpose.
struct Operand {
    const void* data;
    int64_t stride;
    bool transposed;
};

/// c[m,n] = op(a)[m,k] op(b)[k,n] on the calling thread alone, through oneDNN. The bits depend on
/// the arguments only.
void sgemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, float* c, int64_t c_stride);

/// The same with bf16 operands and fp32 sums; c is fp32 or bf16. Where the CPU has no bf16
/// instructions, or slow ones, the operands are widened to fp32, block by block.
void bf16_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
               int64_t c_stride);

/// Whether bf16_gemm uses bf16 instructions on this CPU; else it widens.
bool bf16_products_are_native();
/// What bf16_gemm does where they are not, on any CPU.
void widened_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
                  int64_t c_stride);
/// What it does where they are: oneDNN's bf16 product. It needs a CPU with `library_has_bf16`, and
/// is emulated, slowly, where that has no bf16 instructions.
void library_gemm(int64_t m, int64_t n, int64_t k, Operand a, Operand b, void* c, DType c_dtype,
                  int64_t c_stride);
bool library_has_bf16();

using PageMemory = std::unique_ptr<void, void (*)(void*)>;
/// What bf16_gemm hands to oneDNN, which would take a null pointer for memory. An error of kind io
/// where the system has no `bytes`.
PageMemory page_memory(size_t bytes);

}  // namespace plinth::kernels::cpu
