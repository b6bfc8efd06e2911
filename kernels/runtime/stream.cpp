// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/stream.h"

#include "kernels/runtime/error.h"

namespace plinth {

void* Stream::device_kernel(const char* name) const {
    FAIL(config, "{}: this build has no CUDA kernel of that name; run on the CPU (run.device=cpu)",
         name);
}

}  // namespace plinth
