// SPDX-License-Identifier: Apache-2.0
#include "launch/peak_flops.h"

#include <algorithm>

#include "kernels/add.h"
#include "kernels/matmul.h"

namespace plinth::launch {

namespace {

/// Dense products of the data sheet, FLOP/s; 0 for a card that is not known. NVIDIA H100 and H200
/// (SXM), A100 data sheets.
double published_peak_flops(const DeviceInfo& card, DType dtype, bool tf32) {
    struct Peak {
        const char* name;
        double bf16, tf32, fp32;
    };
    static constexpr Peak peaks[] = {{"NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12, 66.9e12},
                                     {"NVIDIA H200", 989.4e12, 494.7e12, 66.9e12},
                                     {"NVIDIA A100", 312e12, 156e12, 19.5e12}};
    for (const Peak& peak : peaks)
        if (card.name.starts_with(peak.name))
            return dtype == DType::bf16 ? peak.bf16 : tf32 ? peak.tf32 : peak.fp32;
    return 0.0;
}

}  // namespace

double peak_flops_of(Session& session, DType dtype, bool tf32) {
    const Device device = session.device();
    const double published =
        device.type == DeviceType::cpu
            ? 0.0
            : published_peak_flops(cuda_module().info(device.index), dtype, tf32);
    return published > 0.0 ? published : measured_peak_flops(session, dtype);
}

double measured_peak_flops(Session& session, DType dtype) {
    const int64_t scale = session.device().type == DeviceType::cpu ? 1 : 8;
    const int64_t m = 512 * scale, n = 768 * scale, k = 768 * scale;
    // Of an allocator of its own: what is measured before the first step is no part of what a run
    // holds, and is free when it comes.
    CachingAllocator allocator(session.memory());
    core::Scope::Settings settings = session.scope(dtype);
    settings.allocator = &allocator;
    const core::Scope scope(settings);
    core::Tensor a = scope.empty({m, k}, dtype), b = scope.empty({n, k}, dtype),
                 c = scope.empty({m, n}, dtype);
    kernels::fill(a.out(), 0.5f, session.stream());
    kernels::fill(b.out(), 0.25f, session.stream());
    double best = 0.0;
    for (int i = 0; i < 4; ++i) {
        session.stream().synchronize();
        const double began = session.seconds();
        kernels::matmul(c.out(), a.in(), b.in(), {}, {.transpose_b = true}, session.stream());
        session.stream().synchronize();
        const double seconds = std::max(1e-9, session.seconds() - began);
        best = std::max(best, 2.0 * static_cast<double>(m * n * k) / seconds);
    }
    return best;
}

}  // namespace plinth::launch
