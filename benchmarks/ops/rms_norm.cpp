// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

const int forward =
    register_rows("rms_norm/forward", 2, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, c.width}, dtype), y({c.rows, c.width}, dtype);
        Buffer weight({c.width}, DType::f32), rstd({c.rows}, DType::f32);
        for (auto _ : state)
            kernels::rms_norm_forward(y.view(), rstd.view(), {}, x.view(), {}, weight.view(), 1e-5,
                                      stream);
    });

const int forward_of_sum =
    register_rows("rms_norm/forward_of_sum", 4, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, c.width}, dtype), branch({c.rows, c.width}, dtype),
            sum({c.rows, c.width}, dtype), y({c.rows, c.width}, dtype);
        Buffer weight({c.width}, DType::f32), rstd({c.rows}, DType::f32);
        for (auto _ : state)
            kernels::rms_norm_forward(y.view(), rstd.view(), sum.view(), x.view(), branch.view(),
                                      weight.view(), 1e-5, stream);
    });

const int backward =
    register_rows("rms_norm/backward", 3, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, c.width}, dtype), dx({c.rows, c.width}, dtype),
            dy({c.rows, c.width}, dtype);
        Buffer weight({c.width}, DType::f32), dweight({c.width}, DType::f32),
            rstd({c.rows}, DType::f32);
        for (auto _ : state)
            kernels::rms_norm_backward(dx.view(), dweight.view(), dy.view(), {}, x.view(),
                                       weight.view(), rstd.view(), stream);
    });

const int backward_of_sum =
    register_rows("rms_norm/backward_of_sum", 4, [](auto& state, const RowsCase& c, DType dtype) {
        Stream stream(2);
        Buffer x({c.rows, c.width}, dtype), dx({c.rows, c.width}, dtype),
            dy({c.rows, c.width}, dtype), dsum({c.rows, c.width}, dtype);
        Buffer weight({c.width}, DType::f32), dweight({c.width}, DType::f32),
            rstd({c.rows}, DType::f32);
        for (auto _ : state)
            kernels::rms_norm_backward(dx.view(), dweight.view(), dy.view(), dsum.view(), x.view(),
                                       weight.view(), rstd.view(), stream);
    });

}  // namespace
}  // namespace plinth::test
