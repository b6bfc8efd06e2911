// SPDX-License-Identifier: Apache-2.0
#include "kernels/cast.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

// From fp32: 4 bytes read for 2 or 4 written.
const int registered = register_rows("cast", 2, [](auto& state, const RowsCase& c, DType dtype) {
    Stream stream(2);
    Buffer x({c.rows, c.width}, DType::f32), y({c.rows, c.width}, dtype);
    for (auto _ : state)
        kernels::cast(y.view(), x.view(), stream);
});

}  // namespace
}  // namespace plinth::test
