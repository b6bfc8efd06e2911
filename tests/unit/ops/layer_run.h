// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tests/support/op_fixture.h"

namespace plinth::test {

/// One layer once forwards and once backwards.
struct LayerResult {
    std::vector<double> y, dx;
    std::map<std::string, std::vector<double>> parameters;
    size_t kept = 0;  ///< bytes from the forward to the backward pass, y's beside
    /// In what it computes: what it keeps is no result.
    bool operator==(const LayerResult& other) const {
        return y == other.y && dx == other.dx && parameters == other.parameters;
    }
};

struct LayerRun {
    bool remake = false;
    bool remake_hidden = false;  ///< with remake
    bool later = false;          ///< gradients of weights after those of inputs
    bool watch = true;           ///< the gradient of x is wanted
    bool is_kept = false;        ///< another node keeps x
    bool is_recorded = true;
    int threads = 2;
};

/// Tests of layers with parameters, in the dtype of their input.
class LayerTest : public OpTest {
  protected:
    using Layer = std::function<core::Tensor(const core::Tensor&)>;
    /// dy is fixed and pseudo-random. With `source`, products have 8-bit operands.
    LayerResult differentiate(const Layer& layer, core::Tensor x, const LayerRun& run = {},
                              core::Fp8Source* source = nullptr);
};

}  // namespace plinth::test
