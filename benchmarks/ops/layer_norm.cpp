// SPDX-License-Identifier: Apache-2.0
#include "kernels/layer_norm.h"

#include "benchmarks/ops/bandwidth.h"

namespace plinth::test {
namespace {

struct Data {
    Buffer x, branch, sum, y, dy, mean, rstd, weight, dweight, dbias;
    Data(const RowsCase& c, DType dtype)
        : x({c.rows, c.width}, dtype),
          branch({c.rows, c.width}, dtype),
          sum({c.rows, c.width}, dtype),
          y({c.rows, c.width}, dtype),
          dy({c.rows, c.width}, dtype),
          mean({c.rows}, DType::f32),
          rstd({c.rows}, DType::f32),
          weight({c.width}, DType::f32),
          dweight({kernels::norm_blocks(c.rows), c.width}, DType::f32),
          dbias({kernels::norm_blocks(c.rows), c.width}, DType::f32) {}
};

const int registered = [] {
    for (DType dtype : {DType::f32, DType::bf16}) {
        const auto name = fmt::format("layer_norm/{}/{}/", gpt2_width.name, name_of(dtype));
        register_bandwidth(name + "forward", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = 2.0 * size_in_bytes(d->x);
            return [=](Stream& stream) {
                kernels::layer_norm_forward(d->y.view(), d->mean.view(), d->rstd.view(), {},
                                            d->x.view(), {}, d->weight.view(), d->weight.view(),
                                            1e-5f, stream);
            };
        });
        register_bandwidth(name + "forward_of_sum", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = 4.0 * size_in_bytes(d->x);
            return [=](Stream& stream) {
                kernels::layer_norm_forward(d->y.view(), d->mean.view(), d->rstd.view(),
                                            d->sum.view(), d->x.view(), d->branch.view(),
                                            d->weight.view(), d->weight.view(), 1e-5f, stream);
            };
        });
        register_bandwidth(name + "backward", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = 3.0 * size_in_bytes(d->x);
            return [=](Stream& stream) {
                kernels::layer_norm_backward(d->y.view(), d->dweight.view(), d->dbias.view(),
                                             d->dy.view(), {}, d->x.view(), d->weight.view(),
                                             d->mean.view(), d->rstd.view(), stream);
            };
        });
        register_bandwidth(name + "backward_of_sum", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = 4.0 * size_in_bytes(d->x);
            return [=](Stream& stream) {
                kernels::layer_norm_backward(
                    d->y.view(), d->dweight.view(), d->dbias.view(), d->dy.view(), d->sum.view(),
                    d->x.view(), d->weight.view(), d->mean.view(), d->rstd.view(), stream);
            };
        });
    }
    return 0;
}();

}  // namespace
}  // namespace plinth::test
