// SPDX-License-Identifier: Apache-2.0
// Test programs of devices take PLINTH_DEVICE_MODULE as the program does.
#include <cstdlib>

#include "kernels/runtime/stand_in_module.h"

namespace {

const bool is_taken = [] {
    const char* file = std::getenv("PLINTH_DEVICE_MODULE");
    plinth::use_device_module(file ? file : "");
    return true;
}();

}  // namespace
