// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace plinth {

/// The module of that file stands in for the CUDA module, and this machine counts as one with a
/// device: tests name the emulated device so. Before any question about devices; an empty name
/// changes nothing.
void use_device_module(const std::string& file);

}  // namespace plinth
