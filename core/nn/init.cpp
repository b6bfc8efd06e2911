// SPDX-License-Identifier: Apache-2.0
#include "core/nn/init.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/tensor/shard_runs.h"
#include "kernels/add.h"
#include "kernels/runtime/philox.h"

namespace plinth::core::nn {

namespace {

/// Four standard normal values from four random words.
std::array<float, 4> normal_quadruple(const std::array<uint32_t, 4>& words) {
    std::array<float, 4> values{};
    for (size_t pair = 0; pair < 2; ++pair) {
        const double u = (static_cast<double>(words[2 * pair]) + 0.5) * 0x1p-32;  // in (0, 1)
        const double angle =
            2.0 * std::numbers::pi * static_cast<double>(words[2 * pair + 1]) * 0x1p-32;
        const double radius = std::sqrt(-2.0 * std::log(u));
        values[2 * pair] = static_cast<float>(radius * std::cos(angle));
        values[2 * pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
    return values;
}

/// Elements [first, first + count) of the global tensor.
void fill_run(float* values, int64_t first, int64_t count, const RandomKey& key, float stddev) {
    const int64_t end = first + count;
    for (int64_t quadruple = first / 4; quadruple * 4 < end; ++quadruple) {
        const auto normal = normal_quadruple(key.words(static_cast<uint64_t>(quadruple)));
        for (int64_t i = std::max(first, quadruple * 4); i < std::min(end, quadruple * 4 + 4); ++i)
            values[i - first] = stddev * normal[static_cast<size_t>(i - quadruple * 4)];
    }
}

/// Elements [begin, begin + count) of the parameter's local memory.
void fill_normal(const Parameter& parameter, int64_t begin, int64_t count, float* values,
                 uint64_t seed, Stream& stream) {
    constexpr int64_t grain = 16384;
    const RandomKey key(seed, "init." + parameter.name());
    const auto stddev = static_cast<float>(parameter.spec().init.stddev);
    int64_t first = 0;  // of the box, in local memory
    for (const Shard& box : parameter.boxes()) {
        const int64_t from = std::max(begin, first) - first;
        const int64_t to = std::min(begin + count, first + box.elements()) - first;
        first += box.elements();
        if (from >= to) continue;
        parallel_for(stream, to - from, grain, [&](int64_t low, int64_t high) {
            Shard part = box;
            part.begin = from + low;
            part.end = from + high;
            Runs runs(part);
            for (Run run; runs.next(run);)
                fill_run(values + low + run.local, run.global, run.count, key, stddev);
        });
        values += to - from;
    }
}

void initialize_normal(const Parameter& parameter, int64_t begin, View values, uint64_t seed,
                       Stream& stream) {
    if (values.device.type == DeviceType::cpu)
        return fill_normal(parameter, begin, values.elements(), values.as<float>(), seed, stream);
    // Drawn on the host, so that a device's library functions do not decide the bits.
    std::vector<float> drawn(static_cast<size_t>(values.elements()));
    fill_normal(parameter, begin, values.elements(), drawn.data(), seed, stream);
    stream.copy(values.data, drawn.data(), values.bytes());
}

}  // namespace

void initialize(const Parameter& parameter, int64_t begin, View values, uint64_t seed,
                Stream& stream) {
    const auto fill = [&](float value) {
        // Master weights may be in host memory beside a device's stream.
        if (values.device.type == DeviceType::cpu) return kernels::fill.cpu(values, value, stream);
        kernels::fill(values, value, stream);
    };
    switch (parameter.spec().init.kind) {
        case Init::Kind::zeros:
            return fill(0.0f);
        case Init::Kind::ones:
            return fill(1.0f);
        case Init::Kind::normal:
            return initialize_normal(parameter, begin, values, seed, stream);
    }
}

void initialize(Parameter& parameter, uint64_t seed, Stream& stream) {
    initialize(parameter, 0, parameter.master().out(), seed, stream);
    parameter.changed();
}

}  // namespace plinth::core::nn
