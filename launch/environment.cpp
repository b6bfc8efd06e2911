// SPDX-License-Identifier: Apache-2.0
#include "launch/environment.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdio>

#include "core/io/free_memory.h"
#include "kernels/build_info.h"
#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"
#include "parallel/comm/mpi.h"

namespace plinth::launch {

namespace {

std::string value_in(const Properties& properties, const std::string& key) {
    const auto place = properties.find(key);
    return place == properties.end() ? "not recorded" : place->second;
}

}  // namespace

Properties environment_properties(Device device) {
    const BuildInfo& build = build_info();
    Properties properties{{"plinth", build.version},
                          {"compiler", build.compiler},
                          {"arch", build.arch},
                          {"simd", build.simd},
                          {"gemm", build.gemm},
                          {"bf16_products", build.bf16},
                          {"mpi", parallel::mpi_library_version()}};
    if (device.type != DeviceType::cpu) {
        const DeviceInfo info = cuda_module().info(device.index);
        properties["device"] = fmt::format("{}, {}", info.name, info.versions);
    }
    return properties;
}

std::string environment_difference(const Properties& stored, const Properties& now) {
    Properties keys = stored;
    keys.insert(now.begin(), now.end());
    std::string text;
    for (const auto& [key, ignored] : keys) {
        const std::string before = value_in(stored, key), after = value_in(now, key);
        if (before != after)
            text += fmt::format("{}{}: {} in the checkpoint, {} now", text.empty() ? "" : "; ", key,
                                before, after);
    }
    return text;
}

int64_t peak_resident_bytes() {
    // getrusage(2) would count what the process that started this one had, too.
    const std::string status = core::io::system_text("/proc/self/status");
    long kib = 0;
    const size_t at = status.find("\nVmHWM:");
    if (at != std::string::npos && std::sscanf(status.c_str() + at, "\nVmHWM: %ld kB", &kib) == 1)
        return int64_t{kib} * 1024;
    rusage use{};
    CHECK(getrusage(RUSAGE_SELF, &use) == 0, "getrusage");
    return int64_t{use.ru_maxrss} * 1024;
}

std::string version_text() {
    std::string text;
    for (const auto& [key, value] : environment_properties())
        text += fmt::format("{:<14} {}\n", key, value);
    text.pop_back();
    return text;
}

}  // namespace plinth::launch
