// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "kernels/runtime/device.h"

namespace plinth::launch {

/// What a checkpoint records about the program and the machine that wrote it.
using Properties = std::map<std::string, std::string>;

/// Plinth, compiler, -march, instruction set, GEMM and MPI of this process; on a GPU its name and
/// the versions of driver and libraries, too.
Properties environment_properties(Device device = {});

/// "simd: avx512f in the checkpoint, avx2+fma now; ..." for what differs or is recorded on one side
/// only; empty if equal bits can be expected.
std::string environment_difference(const Properties& stored, const Properties& now);

/// The most memory that this process has had in RAM so far, as the system counts it: what its
/// allocator holds, libraries, MPI's buffers and the pages it shares with other ranks.
int64_t peak_resident_bytes();

/// What `plinth --version` prints.
std::string version_text();

}  // namespace plinth::launch
