# SPDX-License-Identifier: Apache-2.0
"""The peer's linear layers with 8-bit operands, by PyTorch's own scaled product: one scale a tensor, taken from the tensor itself,
E4M3 for inputs and weights, E5M2 for gradients, in all three products. What Plinth's train.fp8=current computes, too."""
import torch
import torch.nn as nn

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def rounded(x, dtype):
    """x in 8 bits and the fp32 scale by which a product of it is multiplied."""
    scale = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    largest = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def product(a, scale_a, b, scale_b, fast):
    """[M, K] times [N, K] turned: the library wants the first by rows, the second by columns, both along K."""
    return torch._scaled_mm(a, b.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=fast)


class Product(torch.autograd.Function):
    """y = x w^T for x [M, K] and w [N, K], both bf16."""

    @staticmethod
    def forward(ctx, x, w):
        x8, x_scale = rounded(x, E4M3)
        w8, w_scale = rounded(w, E4M3)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        return product(x8, x_scale, w8, w_scale, fast=True)

    @staticmethod
    def backward(ctx, dy):
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        dy8, dy_scale = rounded(dy, E5M2)
        dx = product(dy8, dy_scale, w8.t().contiguous(), w_scale, fast=False)
        dw = product(dy8.t().contiguous(), dy_scale, x8.t().contiguous(), x_scale, fast=False)
        return dx, dw


class Linear(nn.Linear):
    def forward(self, x):
        y = Product.apply(x.to(torch.bfloat16).flatten(0, -2), self.weight.to(torch.bfloat16))
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)
