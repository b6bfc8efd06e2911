# SPDX-License-Identifier: Apache-2.0
"""The peer's model: a lean GPT-2 or Llama in PyTorch, written for torch.compile, with Plinth's parameter names."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def norm(shape):
    if shape["norm"] == "rms":
        return RmsNorm(shape["width"], shape["norm_eps"])
    return nn.LayerNorm(shape["width"], eps=shape["norm_eps"])


def rotate(x, cos, sin):
    """x [B, T, heads, K], halves as Llama pairs them; cos and sin [T, 1, K / 2] in fp32"""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape, linear):
        super().__init__()
        self.heads, self.kv_heads, width = shape["heads"], shape["kv_heads"], shape["width"]
        self.head_width = width // self.heads
        self.qkv = linear(width, (self.heads + 2 * self.kv_heads) * self.head_width, bias=shape["qkv_bias"])
        self.output = linear(width, width, bias=shape["attention_bias"])

    def forward(self, x, rotary):
        B, T, D = x.shape
        H, G, K = self.heads, self.kv_heads, self.head_width
        q, k, v = self.qkv(x).view(B, T, H + 2 * G, K).split([H, G, G], dim=2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, **({"enable_gqa": True} if G != H else {}))
        else:  # PyTorch 1.x
            k, v = (y.repeat_interleave(H // G, dim=1) for y in (k, v))
            later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
            mixed = torch.softmax((q @ k.transpose(-1, -2) * K**-0.5).masked_fill(later, float("-inf")), dim=-1) @ v
        return self.output(mixed.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
    def __init__(self, shape, linear):
        super().__init__()
        width, inner, bias = shape["width"], shape["ffn_width"], shape["mlp_bias"]
        self.gated = shape["activation"] == "swiglu"
        if self.gated:
            self.gate_up = linear(width, 2 * inner, bias=bias)
        else:
            self.up = linear(width, inner, bias=bias)
        self.down = linear(inner, width, bias=bias)

    def forward(self, x):
        if self.gated:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, shape, linear):
        super().__init__()
        self.attention_norm, self.attention = norm(shape), Attention(shape, linear)
        self.mlp_norm, self.mlp = norm(shape), Mlp(shape, linear)

    def forward(self, x, rotary):
        x = x + self.attention(self.attention_norm(x), rotary)
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    """forward: inputs and targets [B, T] -> mean cross-entropy. The residual stream has the type of `compute`. `linear` is
    the class of the blocks' linear layers."""

    def __init__(self, shape, compute, linear=nn.Linear):
        super().__init__()
        self.shape, self.compute = shape, compute
        self.embedding = nn.ModuleDict({"tokens": nn.Embedding(shape["vocab_size"], shape["width"])})
        self.has_positions = shape["positions"] == "learned"
        if self.has_positions:
            self.embedding["positions"] = nn.Embedding(shape["max_positions"], shape["width"])
        else:
            K = shape["width"] // shape["heads"]
            angles = torch.arange(shape["tokens"], dtype=torch.float64)[:, None] * \
                shape["rope_theta"] ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
            self.register_buffer("cos", angles.cos().float()[:, None], persistent=False)
            self.register_buffer("sin", angles.sin().float()[:, None], persistent=False)
        self.blocks = nn.ModuleList(Block(shape, linear) for _ in range(shape["layers"]))
        self.final_norm = norm(shape)
        if not shape["tied_head"]:
            self.head = nn.Linear(shape["width"], shape["vocab_size"], bias=False)

    def forward(self, inputs, targets):
        x = self.embedding["tokens"](inputs)
        if self.has_positions:
            x = x + self.embedding["positions"].weight[: inputs.shape[1]]
        x = x.to(self.compute)
        rotary = None if self.has_positions else (self.cos, self.sin)
        for block in self.blocks:
            x = block(x, rotary)
        return self.loss(x, self.embedding["tokens"].weight if self.shape["tied_head"] else self.head.weight, targets)

    def loss(self, x, head, targets):
        logits = F.linear(self.final_norm(x), head)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def compile_regions(self):
        """One graph for all blocks and one for head and loss: nearly the whole model's speed, a fraction of its compile time."""
        for block in self.blocks:
            block.forward = torch.compile(block.forward)
        self.loss = torch.compile(self.loss)
