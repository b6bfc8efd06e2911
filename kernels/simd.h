// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Marks a leaf row loop of a CPU kernel: the compiler also makes an AVX-512 version of it, chosen
/// once by the loader. Only for free functions that call nothing but always-inlined helpers.
/// Sanitizers cannot run before the resolvers do.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(PLINTH_SANITIZED)
#define PLINTH_SIMD __attribute__((target_clones("arch=x86-64-v4", "default")))
#else
#define PLINTH_SIMD
#endif

#define PLINTH_INLINE inline __attribute__((always_inline))

/// Arithmetic that both devices share.
#if defined(__CUDACC__)
#define PLINTH_HOST_DEVICE __host__ __device__
#else
#define PLINTH_HOST_DEVICE
#endif
