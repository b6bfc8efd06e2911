// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/device_module.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string_view>

#include "kernels/runtime/error.h"
#include "kernels/runtime/stand_in_module.h"
#include "kernels/runtime/trace.h"

namespace plinth {

namespace {

constexpr const char* module_file = "libplinth_cuda.so";

/// Of use_device_module. A test program names it before it enters main.
std::string& stand_in() {
    static std::string file;
    return file;
}

struct Loaded {
    DeviceModule* module = nullptr;
    std::string reason;
};

/// The folder of the program with a slash at its end; empty if the system does not say. The
/// loader's $ORIGIN would be that of whoever calls dlopen, which may be a tool that stands between.
std::string program_folder() {
    std::array<char, 4096> path{};
    const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
    if (length <= 0) return "";
    const std::string_view program(path.data(), static_cast<size_t>(length));
    return std::string(program.substr(0, program.rfind('/') + 1));
}

Loaded load() {
    Loaded loaded;
    const std::string file = stand_in().empty() ? module_file : stand_in();
    void* handle = open_backend_module(file, loaded.reason);
    if (!handle) return loaded;
    loaded.reason.clear();
    const auto make = reinterpret_cast<DeviceModule* (*)()>(dlsym(handle, "plinth_device_module"));
    CHECK(make != nullptr, "{} is no backend module: {}", file, dlerror());
    try {
        loaded.module = make();
        if (loaded.module->devices() == 0) loaded.reason = "the driver finds no device";
        // Where the device's profilers take the names of ranges.
        if (const auto sink =
                reinterpret_cast<TraceSink* (*)()>(dlsym(handle, "plinth_trace_sink")))
            set_trace_sink(sink());
    } catch (const Error& error) {
        loaded.module = nullptr;
        loaded.reason = error.what();
    }
    return loaded;
}

const Loaded& loaded_once() {
    static const Loaded loaded = load();
    return loaded;
}

}  // namespace

void use_device_module(const std::string& file) {
    stand_in() = file;
}

void* open_backend_module(const std::string& file, std::string& reason) {
    const bool is_path = file.find('/') != std::string::npos;
    for (const std::string& path : {is_path ? file : program_folder() + file, file}) {
        if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
        reason += reason.empty() ? "" : "; ";
        reason += dlerror();
    }
    return nullptr;
}

DeviceModule& cuda_module() {
    const Loaded& loaded = loaded_once();
    REQUIRE(config, loaded.reason.empty(),
            "run.device=cuda: {}; run on the CPU (run.device=cpu) or build the CUDA backend "
            "(docs/gpu.md)",
            loaded.reason);
    return *loaded.module;
}

bool has_cuda_driver() {
    return !stand_in().empty() || access("/dev/nvidiactl", F_OK) == 0 ||
           access("/dev/dxg", F_OK) == 0;
}

const std::string& no_cuda_device_reason() {
    static const std::string no_driver =
        "no NVIDIA driver on this machine (neither /dev/nvidiactl nor /dev/dxg)";
    return has_cuda_driver() ? loaded_once().reason : no_driver;
}

bool has_cuda_device() {
    return no_cuda_device_reason().empty();
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, size_t bytes) {
    if (bytes == 0) return;
    if (to_device.type == DeviceType::cpu && from_device.type == DeviceType::cpu)
        std::memcpy(to, from, bytes);
    else
        cuda_module().copy(to_device.type == DeviceType::cuda ? to_device.index : from_device.index,
                           to, from, bytes);
}

}  // namespace plinth
