// SPDX-License-Identifier: Apache-2.0
#include "core/nn/init.h"

#include <array>
#include <cmath>
#include <numbers>

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

void fill_normal(Parameter& parameter, uint64_t seed, Stream& stream) {
    constexpr int64_t grain = 16384;
    const RandomKey key(seed, "init." + parameter.name());
    const auto stddev = static_cast<float>(parameter.spec().init.stddev);
    float* values = parameter.master().data<float>();
    parallel_for(stream, parameter.master().elements(), grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i += 4) {
            const auto normal = normal_quadruple(key.words(static_cast<uint64_t>(i / 4)));
            for (int64_t j = i; j < end && j < i + 4; ++j)
                values[j] = stddev * normal[static_cast<size_t>(j - i)];
        }
    });
}

}  // namespace

void initialize(Parameter& parameter, uint64_t seed, Stream& stream) {
    CHECK(parameter.shard().is_whole(), "{}: init of a shard", parameter.name());
    switch (parameter.spec().init.kind) {
        case Init::Kind::zeros:
            kernels::fill(parameter.master().out(), 0.0f, stream);
            break;
        case Init::Kind::ones:
            kernels::fill(parameter.master().out(), 1.0f, stream);
            break;
        case Init::Kind::normal:
            fill_normal(parameter, seed, stream);
            break;
    }
    parameter.changed();
}

}  // namespace plinth::core::nn
