// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/autograd/scope.h"
#include "kernels/runtime/device_module.h"

namespace plinth::test {

/// Memory, threads and step state, from which a test makes scopes.
struct Surroundings {
    explicit Surroundings(int threads = 2, Device device = {})
        : allocator(device.type == DeviceType::cpu ? host_memory()
                                                   : cuda_module().memory(device.index)),
          stream(device, threads) {}

    core::Scope::Settings settings(core::Tape* tape = nullptr) {
        return {.stream = &stream,
                .allocator = &allocator,
                .tape = tape,
                .step = &step,
                .training = true};
    }
    core::Tensor tensor(const std::vector<float>& values) {
        return core::Tensor::of(values, {static_cast<int64_t>(values.size())}, allocator);
    }

    CachingAllocator allocator;
    Stream stream;
    core::StepState step{.seed = 11};
};

}  // namespace plinth::test
