// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/runtime/device_module.h"

namespace plinth::test {

/// Whether the device is that of tests/emulation, which has the own kernels and products, but
/// neither cuDNN nor NCCL.
inline bool is_emulated_device() {
    return cuda_module().info(0).name.starts_with("emulated");
}

}  // namespace plinth::test
