// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

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
        if (stream.device().type != DeviceType::cpu)
            return reinterpret_cast<void (*)(Args..., Stream&)>(stream.device_kernel(name))(args...,
                                                                                            stream);
        if constexpr ((!std::is_reference_v<Args> && ...)) {
            if (stream.is_capturing())
                return stream.keep([kernel = cpu, args...](Stream& to) { kernel(args..., to); });
        }
        cpu(args..., stream);
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
