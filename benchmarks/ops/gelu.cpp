// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu.h"

#include "benchmarks/ops/bandwidth.h"

namespace plinth::test {
namespace {

using kernels::Gelu;

const int registered = [] {
    for (Gelu form : {Gelu::tanh, Gelu::erf})
        for (DType dtype : {DType::f32, DType::bf16}) {
            const auto name = fmt::format("gelu_{}/{}/{}/", form == Gelu::tanh ? "tanh" : "erf",
                                          gpt2_ffn.name, name_of(dtype));
            const Shape shape{gpt2_ffn.rows, gpt2_ffn.width};
            register_bandwidth(name + "forward", [=](double& bytes) {
                auto x = std::make_shared<Buffer>(shape, dtype);
                auto y = std::make_shared<Buffer>(shape, dtype);
                bytes = 2.0 * size_in_bytes(*x);
                return [=](Stream& stream) {
                    kernels::gelu_forward(y->view(), x->view(), form, stream);
                };
            });
            register_bandwidth(name + "backward", [=](double& bytes) {
                auto x = std::make_shared<Buffer>(shape, dtype);
                auto dx = std::make_shared<Buffer>(shape, dtype);
                auto dy = std::make_shared<Buffer>(shape, dtype);
                bytes = 3.0 * size_in_bytes(*x);
                return [=](Stream& stream) {
                    kernels::gelu_backward(dx->view(), dy->view(), x->view(), form, stream);
                };
            });
        }
    return 0;
}();

}  // namespace
}  // namespace plinth::test
