// SPDX-License-Identifier: Apache-2.0
#include "kernels/select_rows.h"

#include "benchmarks/ops/bandwidth.h"

namespace plinth::test {
namespace {

/// One row in 64: the last token of each sample.
struct Data {
    Buffer x, y, rows;
    explicit Data(DType dtype)
        : x({gpt2_width.rows, gpt2_width.width}, dtype),
          y({gpt2_width.rows / 64, gpt2_width.width}, dtype),
          rows({gpt2_width.rows / 64}, DType::i32) {
        for (int32_t r = 0; r < static_cast<int32_t>(gpt2_width.rows / 64); ++r)
            rows.view().as<int32_t>()[r] = 64 * r + 63;
    }
};

const int registered = [] {
    for (DType dtype : {DType::f32, DType::bf16}) {
        const auto name = fmt::format("select_rows/{}/{}/", gpt2_width.name, name_of(dtype));
        register_bandwidth(name + "forward", [=](double& bytes) {
            auto d = std::make_shared<Data>(dtype);
            bytes = 2.0 * size_in_bytes(d->y);
            return [=](Stream& stream) {
                kernels::select_rows_forward(d->y.view(), d->x.view(), d->rows.view(), stream);
            };
        });
        register_bandwidth(name + "backward", [=](double& bytes) {
            auto d = std::make_shared<Data>(dtype);
            bytes = size_in_bytes(d->x) + size_in_bytes(d->y);
            return [=](Stream& stream) {
                kernels::select_rows_backward(d->x.view(), d->y.view(), d->rows.view(), stream);
            };
        });
    }
    return 0;
}();

}  // namespace
}  // namespace plinth::test
