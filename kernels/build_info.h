// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace plinth {

/// What decides the bits of a run besides its configuration: the binary, the CPU's instruction set
/// and the libraries.
struct BuildInfo {
    std::string version;   ///< of Plinth, with the commit that it was configured at: "0.1.0, commit
                           ///< 267a02c0a1b2"
    std::string compiler;  ///< "gcc 12.2.0"
    std::string arch;  ///< -march of the whole program: "x86-64-v3"; "default" if none was given
    std::string simd;  ///< instruction set that the kernels take on this CPU: "avx512f"
    std::string gemm;  ///< library with version and its instruction set
    std::string bf16;  ///< how bf16 products are computed: "native" or "widened to fp32"
};

const BuildInfo& build_info();

}  // namespace plinth
