// SPDX-License-Identifier: Apache-2.0
#include "kernels/build_info.h"

#include <fmt/format.h>

#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/cpu/gemm.h"

// PLINTH_VERSION and PLINTH_ARCH come from kernels/CMakeLists.txt.
namespace plinth {

namespace {

std::string compiler() {
#if defined(__clang__)
    return fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
    return fmt::format("gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

/// The widest set that the kernels choose between at run time.
std::string simd() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return "avx512f";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2+fma";
    return "x86-64";
#else
    return "generic";
#endif
}

std::string gemm_library() {
    const dnnl_version_t& version = *dnnl_version();
    return fmt::format("oneDNN {}.{}.{}, instruction set {:#x}", version.major, version.minor,
                       version.patch, static_cast<unsigned>(dnnl::get_effective_cpu_isa()));
}

}  // namespace

const BuildInfo& build_info() {
    static const BuildInfo info{
        .version = PLINTH_VERSION,
        .compiler = compiler(),
        .arch = std::string(PLINTH_ARCH).empty() ? "default" : PLINTH_ARCH,
        .simd = simd(),
        .gemm = gemm_library(),
        .bf16 = kernels::cpu::bf16_products_are_native() ? "native" : "widened to fp32",
    };
    return info;
}

}  // namespace plinth
