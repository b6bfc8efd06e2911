// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/runtime/stream.h"
#include "kernels/view.h"

namespace plinth::kernels {

/// A kernel by name: calls the CPU function or the device module's, by the stream's device.
template <typename Signature>
struct Kernel;

template <typename... Args>
struct Kernel<void(Args...)> {
    const char* name;
    void (*cpu)(Args..., Stream&);

    void operator()(Args... args, Stream& stream) const {
        if (stream.device().type == DeviceType::cpu) return cpu(args..., stream);
        reinterpret_cast<void (*)(Args..., Stream&)>(stream.device_kernel(name))(args..., stream);
    }
};

}  // namespace plinth::kernels

/// Declares `cpu::NAME(parameters..., Stream&)` and the callable `NAME` that dispatches to it.
/// Parameters: outputs, inputs, attributes. PLINTH_KERNEL(gelu_forward, View y, ConstView x, Gelu
/// form);
#define PLINTH_KERNEL(NAME, ...)                      \
    namespace cpu {                                   \
    void NAME(__VA_ARGS__, Stream& stream);           \
    }                                                 \
    inline constexpr Kernel<void(__VA_ARGS__)> NAME { \
#NAME, &cpu::NAME                             \
    }
