// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_library.h"

#include <dlfcn.h>

#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

constexpr const char* module_file = "libplinth_nccl.so";

struct Loaded {
    NcclLibrary* library = nullptr;
    std::string reason;
};

const Loaded& loaded_once() {
    static const Loaded loaded = [] {
        Loaded found;
        void* handle = open_backend_module(module_file, found.reason);
        if (!handle) return found;
        found.reason.clear();
        const auto make =
            reinterpret_cast<NcclLibrary* (*)()>(dlsym(handle, "plinth_nccl_library"));
        CHECK(make != nullptr, "{} is no module for NCCL: {}", module_file, dlerror());
        found.library = make();
        return found;
    }();
    return loaded;
}

}  // namespace

NcclLibrary& nccl_library() {
    REQUIRE(config, loaded_once().library != nullptr, "no NCCL here: {}", loaded_once().reason);
    return *loaded_once().library;
}

const std::string& no_nccl_reason() {
    return loaded_once().reason;
}

}  // namespace plinth::parallel
