// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/models/transformer_config.h"
#include "core/optim/adamw.h"

namespace plinth::test {

/// Of one step, before its update.
struct StepFacts {
    double loss = 0.0;  ///< mean over the labels that count, z-loss included
    double norm = 0.0;  ///< of the gradient of that mean
};

/// A tensor in two numbers: its L2 norm and golden_probe.
struct Checksum {
    double norm = 0.0;
    double probe = 0.0;
};

/// What a training run is compared by.
struct TrainingFacts {
    std::vector<StepFacts> steps;
    std::map<std::string, Checksum> gradients;   ///< of step 1, before clipping
    std::map<std::string, Checksum> parameters;  ///< after the last step
};

/// A tests/golden/models/NAME.txt: a configuration, and what PyTorch in float64 computes with it.
struct GoldenModel {
    std::string name;
    core::models::TransformerConfig config;
    core::optim::AdamWConfig optimizer;
    double learning_rate = 0.0;
    double clip = 0.0;
    int64_t batch = 0;   ///< B
    int64_t length = 0;  ///< T
    TrainingFacts facts;
    /// How far PyTorch in float32 is from float64, by kind: loss, norm, grad_norm, ...
    std::map<std::string, double> error32;

    /// Softmax does not see a bias of the keys unless something turns or scales them: its true
    /// gradient is 0, and AdamW makes visible moves of the rounding noise that is computed instead.
    bool has_free_key_bias() const {
        return config.qkv_bias && !config.qk_norm &&
               config.positions != core::models::TransformerConfig::Positions::rotary;
    }
};

/// Reads the file; a key or line that it does not know is an internal error.
GoldenModel read_golden_model(const std::string& name);

}  // namespace plinth::test
