// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

// A read for the scale, and a read and two writes of half or a quarter of the size.
const int registered = register_rows("fp8", 3, [](auto& state, const RowsCase& c, DType dtype) {
    Stream stream(2);
    const int64_t rows = c.rows / 16 * 16, width = c.width / 16 * 16;
    Buffer x({rows, width}, dtype), y({rows, width}, DType::u8),
        transposed({width, rows}, DType::u8), scale({1}, DType::f32);
    for (auto _ : state) {
        kernels::fp8_scale(scale.view(), x.view(), {}, kernels::Fp8::e4m3, stream);
        kernels::fp8_quantize(y.view(), transposed.view(), {}, x.view(), scale.view(),
                              kernels::Fp8::e4m3, stream);
    }
});

}  // namespace
}  // namespace plinth::test
