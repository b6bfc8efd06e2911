// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include "benchmarks/ops/bandwidth.h"
#include "kernels/runtime/philox.h"

namespace plinth::test {
namespace {

constexpr int64_t vocabulary = 50257;

struct Data {
    RowsCase c;
    Buffer ids, table, positions, position_table, y, dtable;
    Data(RowsCase rows, DType dtype)
        : c(rows),
          ids({c.rows}, DType::i32),
          table({vocabulary, c.width}, dtype),
          positions({c.rows}, DType::i32),
          position_table({c.rows, c.width}, dtype),
          y({c.rows, c.width}, dtype),
          dtable({vocabulary, c.width}, DType::f32) {
        const RandomKey key(1, "ids");
        for (int64_t i = 0; i < c.rows; ++i) {
            ids.view().as<int32_t>()[i] = static_cast<int32_t>(
                key.words(static_cast<uint64_t>(i))[0] % static_cast<uint32_t>(vocabulary));
            positions.view().as<int32_t>()[i] = static_cast<int32_t>(i);
        }
    }
};

const int registered = [] {
    constexpr kernels::TableRows rows{.first = 0, .total = vocabulary};
    for (DType dtype : {DType::f32, DType::bf16}) {
        const auto name = fmt::format("embedding/{}/{}/", gpt2_width.name, name_of(dtype));
        register_bandwidth(name + "forward", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = 3.0 * size_in_bytes(d->y);
            return [=](Stream& stream) {
                kernels::embedding_forward(d->y.view(), d->ids.view(), d->table.view(),
                                           d->positions.view(), d->position_table.view(), rows,
                                           stream);
            };
        });
        register_bandwidth(name + "dtable", [=](double& bytes) {
            auto d = std::make_shared<Data>(gpt2_width, dtype);
            bytes = size_in_bytes(d->dtable) + size_in_bytes(d->y);
            return [=](Stream& stream) {
                kernels::embedding_backward(d->dtable.view(), d->y.view(), d->ids.view(), rows,
                                            /*accumulates=*/false, stream);
            };
        });
    }
    return 0;
}();

}  // namespace
}  // namespace plinth::test
