#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The peer: one training step of a GPT-2-shaped model in PyTorch on the CPU (forward, backward, AdamW; tied head).

    benchmarks/step/torch_gpt2.py [--batch 4] [--tokens 64] [--layers 12] [--width 768] [--heads 12] [--vocab 50257]
                                  [--dtype fp32|bf16] [--compile] [--threads 2] [--steps 5]

Prints one Markdown row: the median of the timed steps, tokens/s and the process's peak memory. bf16 is autocast over fp32
weights. No gradient clipping, no data loading, no dropout: what is left out favours PyTorch.

Well tuned: the program starts itself again with the allocator told to keep what it frees (returning big buffers to the system
costs a quarter of the time in page faults), without the environment's OPENBLAS_* settings, and with the fused AdamW and
scaled_dot_product_attention where the version has them.
"""
import argparse
import math
import os
import resource
import statistics
import sys
import time

TUNING = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}


def restart_tuned():
    """malloc and OpenBLAS read their settings when a process starts."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    if any(environment.get(key) != value for key, value in TUNING.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**environment, **TUNING})


def build(torch, arguments):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def attention(self, x):
            B, T, D = x.shape
            q, k, v = (y.reshape(B, T, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(D, dim=-1))
            if hasattr(F, "scaled_dot_product_attention"):
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                later = torch.ones(T, T, dtype=torch.bool).triu(1)
                scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(later, float("-inf"))
                mixed = torch.softmax(scores, dim=-1) @ v
            return self.output(mixed.transpose(1, 2).reshape(B, T, D))

        def forward(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self, layers, width, heads, vocab, positions):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(positions, width)
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            nn.init.normal_(self.tokens.weight, std=0.02)
            nn.init.normal_(self.positions.weight, std=0.02)

        def forward(self, inputs, labels):
            x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    return Gpt(arguments.layers, arguments.width, arguments.heads, arguments.vocab, max(1024, arguments.tokens))


def make_optimizer(torch, model):
    for choice in ({"fused": True}, {"foreach": True}, {}):
        try:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **choice)
            return optimizer, next(iter(choice), "plain")
        except (RuntimeError, TypeError):
            continue
    raise SystemExit("this PyTorch has no AdamW")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("batch", 4), ("tokens", 64), ("layers", 12), ("width", 768), ("heads", 12), ("vocab", 50257),
                        ("threads", 2), ("steps", 5)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main():
    arguments = parse()
    restart_tuned()
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(arguments.threads)
    model = build(torch, arguments)
    optimizer, adamw = make_optimizer(torch, model)
    step_model = torch.compile(model) if arguments.compile else model
    inputs = torch.randint(arguments.vocab, (arguments.batch, arguments.tokens))
    labels = torch.randint(arguments.vocab, (arguments.batch, arguments.tokens))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.dtype == "bf16"):
            loss = step_model(inputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(2):  # allocations, primitive caches, compilation
        step()
    times = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = f"{arguments.layers}x{arguments.width} V={arguments.vocab} B={arguments.batch},T={arguments.tokens}"
    how = f"{arguments.dtype} {'compiled' if arguments.compile else 'eager'}"
    print(f"| {shape} | {how}, {adamw} AdamW | {arguments.threads} | {1e3 * seconds:.0f} | "
          f"{arguments.batch * arguments.tokens / seconds:.0f} | {peak:.1f} GiB | torch {torch.__version__} |", flush=True)


if __name__ == "__main__":
    main()
