// SPDX-License-Identifier: Apache-2.0
#include "kernels/add.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

const int registered = register_rows("add", 3, [](auto& state, const RowsCase& c, DType dtype) {
    Stream stream(2);
    Buffer a({c.rows, c.width}, dtype), b({c.rows, c.width}, dtype), y({c.rows, c.width}, dtype);
    for (auto _ : state)
        kernels::add(y.view(), a.view(), b.view(), stream);
});

}  // namespace
}  // namespace plinth::test
