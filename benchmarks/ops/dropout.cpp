// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

const int registered = register_rows("dropout", 3, [](auto& state, const RowsCase& c, DType dtype) {
    Stream stream(2);
    Buffer x({1, c.rows, c.width}, dtype), residual({1, c.rows, c.width}, dtype),
        y({1, c.rows, c.width}, dtype);
    Buffer samples({1}, DType::i64);
    for (auto _ : state)
        kernels::dropout(y.view(), residual.view(), x.view(), samples.view(),
                         {0.1f, StepKey(1, "p")}, stream);
});

}  // namespace
}  // namespace plinth::test
