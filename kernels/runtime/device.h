// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth {

enum class DeviceType : uint8_t { cpu, cuda };

/// A place where memory lives and kernels run.
struct Device {
    DeviceType type = DeviceType::cpu;
    int index = 0;
    bool operator==(const Device&) const = default;
};

}  // namespace plinth
