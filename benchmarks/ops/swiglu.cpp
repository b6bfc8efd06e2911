// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

const int forward =
    register_rows("swiglu/forward", 3, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, 2 * c.width}, dtype), y({c.rows, c.width}, dtype);
        for (auto _ : state)
            kernels::swiglu_forward(y.view(), x.view(), stream);
    });

const int backward =
    register_rows("swiglu/backward", 5, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, 2 * c.width}, dtype), dx({c.rows, 2 * c.width}, dtype),
            dy({c.rows, c.width}, dtype);
        for (auto _ : state)
            kernels::swiglu_backward(dx.view(), dy.view(), x.view(), stream);
    });

}  // namespace
}  // namespace plinth::test
