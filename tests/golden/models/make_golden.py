#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden losses and gradients of whole tiny transformers, in plain PyTorch, float64.

    tests/golden/models/make_golden.py [--only NAME] [--out FOLDER]

Writes NAME.txt for every entry of MODELS and formula.txt beside this script. Nothing but the formulas below is shared with
the C++ side: tests/support/golden_values.h computes the same weights and tokens, so no weight is stored.

Values.  u(name, i) = top24(splitmix64(fnv1a64(name) + i)) / 2^23 - 1, in [-1, 1), exact in fp32, where
             fnv1a64(name): h = 14695981039346656037; for each byte: h = (h xor byte) * 1099511628211 mod 2^64
             splitmix64(x): z = x + 0x9E3779B97F4A7C15; z = (z xor z >> 30) * 0xBF58476D1CE4E5B9;
                            z = (z xor z >> 27) * 0x94D049BB133111EB; z xor z >> 31 (all mod 2^64); top24(z) = z >> 40
         Element i (row-major) of a parameter is, rounded once to fp32,
             0.08 u for matrices and embeddings, 1 + 0.1 u for norm weights, 0.02 u for biases.
Tokens.  r(name, i) = top24(splitmix64(fnv1a64(name) + i)), an integer. Step s = 1.. has B sequences of T + 1 tokens:
             x[b][0] = r("tokens.s", b (T+1)) mod V;   x[b][t] = (5 x[b][t-1] + 1 + r("tokens.s", b (T+1) + t) mod 3) mod V
         Inputs are x[b][0..T-1], labels x[b][1..T]; label (b, t) is ignored (-100) when r("ignored.s", b T + t) mod 16 = 0.
Model.   Pre-norm residual blocks; linear = x W^T + b. attention.qkv rows: all query heads, key heads, value heads; mlp.gate_up
         rows: gate, then up (silu(gate) * up). Rotary is half-split: (x1 cos - x2 sin, x2 cos + x1 sin), frequencies
         theta^(-2i/K) stretched the llama3 way; q_norm and k_norm are RMS norms over one head, before rotary. ALiBi adds
         -2^(-8h/H) (i - j), h = 1..H. Embedding norm, final norm and block norms have the model's kind.
Loss.    Mean of cross-entropy over the labels that are not ignored, plus z_loss times the mean of logsumexp(logits)^2 over them.
Step.    Gradient norm = sqrt of the sum of squares over all parameters; gradients times min(1, clip / norm); AdamW with a
         constant learning rate lr: p -= lr decay p (parameters with two dims only);
         p -= lr (m / (1 - beta1^s)) / (sqrt(v / (1 - beta2^s)) + eps).
         A bias of the keys moves all scores of a query alike, so without rotary and QK norm its true gradient is 0; what rounding
         leaves is about eps, and AdamW moves such an element by an unpredictable amount that changes no loss.

Output, one fact a line ('#' comments):
    config KEY VALUE                     the configuration, by the program's own keys
    batch B T
    step S LOSS NORM CROSS_ENTROPY       before the update of step S; LOSS includes the z-loss
    grad NAME NORM PROBE                 step 1, before clipping: L2 norm and sum_i g_i u(NAME + "probe", i)
    param NAME NORM PROBE                after the last step
    error32 WHAT VALUE                   how far the same program in float32 is off: largest relative error of loss and norm over
                                         the steps; largest |norm error| / norm over the gradients, the same of parameters
"""
import argparse
import datetime
import math
import os

import torch
import torch.nn.functional as F

MASK = 2**64 - 1
STEPS = 10
B, T = 3, 12

COMMON = {
    "model.vocab_size": 61,
    "model.layers": 2,
    "model.width": 24,
    "model.heads": 4,
    "model.kv_heads": 4,
    "model.head_width": 6,
    "model.ffn_width": 96,
    "model.max_positions": 16,
    "model.norm": "layer",
    "model.norm_eps": 1e-5,
    "model.positions": "learned",
    "model.activation": "gelu_tanh",
    "model.tied_head": True,
    "model.attention_bias": True,
    "model.qkv_bias": True,
    "model.mlp_bias": True,
    "model.qk_norm": False,
    "model.embedding_norm": False,
    "optimizer.lr": 1e-2,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.95,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "optimizer.clip": 1.0,
    "optimizer.z_loss": 0.0,
}
LLAMA = {
    **COMMON,
    "model.kv_heads": 2,
    "model.ffn_width": 40,
    "model.norm": "rms",
    "model.positions": "rotary",
    # Chosen so that of the few frequencies one stays, one is blended and one is divided.
    "model.rope_theta": 100.0,
    "model.rope_scaling.type": "llama3",
    "model.rope_scaling.factor": 8.0,
    "model.rope_scaling.low_freq_factor": 1.0,
    "model.rope_scaling.high_freq_factor": 4.0,
    "model.rope_scaling.original_positions": 32,
    "model.activation": "swiglu",
    "model.tied_head": False,
    "model.attention_bias": False,
    "model.qkv_bias": False,
    "model.mlp_bias": False,
}
MODELS = {
    "gpt": COMMON,
    "gpt_z_loss": {**COMMON, "optimizer.z_loss": 1e-3},
    "llama": LLAMA,
    "llama_qk_norm": {**LLAMA, "model.width": 32, "model.head_width": 8, "model.qk_norm": True, "model.qkv_bias": True},
    # Of 12 tokens each sees itself and the 4 before it.
    "llama_window": {**LLAMA, "model.sliding_window": 5},
    # A clip between the gradient norms, so that some steps are clipped and some are not.
    "bloom": {**COMMON, "model.positions": "alibi", "model.embedding_norm": True, "optimizer.clip": 1.25},
}


# ---- values -----------------------------------------------------------------------------------------------------------
def fnv1a64(name):
    h = 14695981039346656037
    for byte in name.encode():
        h = ((h ^ byte) * 1099511628211) & MASK
    return h


def splitmix64(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def r(name, i):
    return splitmix64((fnv1a64(name) + i) & MASK) >> 40


def u_values(name, count):
    h = fnv1a64(name)
    return torch.tensor([(splitmix64((h + i) & MASK) >> 40) / 2.0**23 - 1.0 for i in range(count)], dtype=torch.float64)


def initial_value(name, shape):
    """The parameter's start, in float64 but rounded to fp32."""
    u = u_values(name, math.prod(shape))
    if name.endswith("norm.weight"):
        value = 1.0 + 0.1 * u
    elif name.endswith(".bias"):
        value = 0.02 * u
    else:
        value = 0.08 * u
    return value.to(torch.float32).to(torch.float64).reshape(shape)


def batch(step, vocab):
    """(inputs, labels), each [B, T]."""
    rows, ignored = [], f"ignored.{step}"
    for b in range(B):
        row = []
        for t in range(T + 1):
            draw = r(f"tokens.{step}", b * (T + 1) + t)
            row.append(draw % vocab if t == 0 else (5 * row[-1] + 1 + draw % 3) % vocab)
        rows.append(row)
    tokens = torch.tensor(rows)
    labels = tokens[:, 1:].clone()
    for b in range(B):
        for t in range(T):
            if r(ignored, b * T + t) % 16 == 0:
                labels[b, t] = -100
    return tokens[:, :-1], labels


# ---- model ------------------------------------------------------------------------------------------------------------
def parameter_shapes(c):
    """{name: shape} in the order of the forward pass."""
    V, D, F_, K = c["model.vocab_size"], c["model.width"], c["model.ffn_width"], c["model.head_width"]
    H, KV = c["model.heads"], c["model.kv_heads"]
    shapes = {"embedding.tokens.weight": (V, D)}

    def norm(path):
        shapes[path + ".weight"] = (D,)
        if c["model.norm"] == "layer":
            shapes[path + ".bias"] = (D,)

    def linear(path, rows, columns, bias):
        shapes[path + ".weight"] = (rows, columns)
        if bias:
            shapes[path + ".bias"] = (rows,)

    if c["model.positions"] == "learned":
        shapes["embedding.positions.weight"] = (c["model.max_positions"], D)
    if c["model.embedding_norm"]:
        norm("embedding.norm")
    for i in range(c["model.layers"]):
        block = f"blocks.{i}"
        norm(f"{block}.attention_norm")
        linear(f"{block}.attention.qkv", (H + 2 * KV) * K, D, c["model.qkv_bias"])
        if c["model.qk_norm"]:
            shapes[f"{block}.attention.q_norm.weight"] = (K,)
            shapes[f"{block}.attention.k_norm.weight"] = (K,)
        linear(f"{block}.attention.output", D, H * K, c["model.attention_bias"])
        norm(f"{block}.mlp_norm")
        if c["model.activation"] == "swiglu":
            linear(f"{block}.mlp.gate_up", 2 * F_, D, c["model.mlp_bias"])
        else:
            linear(f"{block}.mlp.up", F_, D, c["model.mlp_bias"])
        linear(f"{block}.mlp.down", D, F_, c["model.mlp_bias"])
    norm("final_norm")
    if not c["model.tied_head"]:
        shapes["head.weight"] = (V, D)
    return shapes


def rotary_frequencies(c):
    K, theta = c["model.head_width"], c["model.rope_theta"]
    factor, original = c["model.rope_scaling.factor"], c["model.rope_scaling.original_positions"]
    low, high = c["model.rope_scaling.low_freq_factor"], c["model.rope_scaling.high_freq_factor"]
    frequencies = []
    for i in range(K // 2):
        f = theta ** (-2.0 * i / K)
        wavelength = 2.0 * math.pi / f
        if wavelength > original / low:
            f = f / factor
        elif wavelength >= original / high:
            blend = (original / wavelength - low) / (high - low)
            f = (1.0 - blend) * f / factor + blend * f
        frequencies.append(f)
    return torch.tensor(frequencies, dtype=torch.float64)


class Model:
    def __init__(self, config, dtype):
        self.c = config
        self.dtype = dtype
        self.p = {name: initial_value(name, shape).to(dtype).requires_grad_()
                  for name, shape in parameter_shapes(config).items()}

    def norm(self, x, path):
        eps, weight = self.c["model.norm_eps"], self.p[path + ".weight"]
        if self.c["model.norm"] == "layer":
            return F.layer_norm(x, x.shape[-1:], weight, self.p[path + ".bias"], eps)
        return self.rms_norm(x, weight)

    def rms_norm(self, x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["model.norm_eps"]) * weight

    def linear(self, x, path):
        return F.linear(x, self.p[path + ".weight"], self.p.get(path + ".bias"))

    def rotate(self, x):
        """x [B, heads, T, K]"""
        angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * rotary_frequencies(self.c)
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)

    def attention(self, x, path):
        c = self.c
        H, KV, K = c["model.heads"], c["model.kv_heads"], c["model.head_width"]
        rows, tokens, _ = x.shape
        q, k, v = self.linear(x, path + ".qkv").split([H * K, KV * K, KV * K], dim=-1)
        q = q.reshape(rows, tokens, H, K).transpose(1, 2)
        k = k.reshape(rows, tokens, KV, K).transpose(1, 2)
        v = v.reshape(rows, tokens, KV, K).transpose(1, 2)
        if c["model.qk_norm"]:
            q = self.rms_norm(q, self.p[path + ".q_norm.weight"])
            k = self.rms_norm(k, self.p[path + ".k_norm.weight"])
        if c["model.positions"] == "rotary":
            q, k = self.rotate(q), self.rotate(k)
        k = k.repeat_interleave(H // KV, dim=1)  # query head h reads key head h / (H / KV)
        v = v.repeat_interleave(H // KV, dim=1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(K)
        i = torch.arange(tokens)
        if c["model.positions"] == "alibi":
            slopes = torch.tensor([2.0 ** (-8.0 * h / H) for h in range(1, H + 1)], dtype=self.dtype)
            scores = scores - slopes[:, None, None] * (i[:, None] - i[None, :])
        scores = scores.masked_fill(i[:, None] < i[None, :], float("-inf"))
        if window := c.get("model.sliding_window"):
            scores = scores.masked_fill(i[:, None] - i[None, :] >= window, float("-inf"))
        mixed = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(rows, tokens, H * K)
        return self.linear(mixed, path + ".output")

    def mlp(self, x, path):
        if self.c["model.activation"] == "swiglu":
            gate, up = self.linear(x, path + ".gate_up").chunk(2, dim=-1)
            return self.linear(F.silu(gate) * up, path + ".down")
        return self.linear(F.gelu(self.linear(x, path + ".up"), approximate="tanh"), path + ".down")

    def logits(self, tokens):
        c, p = self.c, self.p
        x = p["embedding.tokens.weight"][tokens]
        if c["model.positions"] == "learned":
            x = x + p["embedding.positions.weight"][: tokens.shape[1]]
        if c["model.embedding_norm"]:
            x = self.norm(x, "embedding.norm")
        for i in range(c["model.layers"]):
            block = f"blocks.{i}"
            x = x + self.attention(self.norm(x, f"{block}.attention_norm"), f"{block}.attention")
            x = x + self.mlp(self.norm(x, f"{block}.mlp_norm"), f"{block}.mlp")
        x = self.norm(x, "final_norm")
        return F.linear(x, p["embedding.tokens.weight"] if c["model.tied_head"] else p["head.weight"])

    def losses(self, tokens, labels):
        """(cross-entropy, z-loss), each a mean over the labels that count."""
        kept = labels != -100
        logits = self.logits(tokens)[kept]
        log_sum = torch.logsumexp(logits, dim=-1)
        target = logits.gather(1, labels[kept][:, None])[:, 0]
        return (log_sum - target).mean(), self.c["optimizer.z_loss"] * log_sum.pow(2).mean()


# ---- training ---------------------------------------------------------------------------------------------------------
def checksums(tensors):
    """[(name, L2 norm, probe)], summed in float64."""
    rows = []
    for name, tensor in tensors.items():
        values = tensor.detach().to(torch.float64).reshape(-1)
        rows.append((name, values.norm().item(), (values * u_values(name + "probe", values.numel())).sum().item()))
    return rows


def train(config, dtype):
    """{"steps": [(loss, norm, cross entropy)], "grad": checksums of step 1, "param": checksums at the end}"""
    model = Model(config, dtype)
    lr, eps, decay, largest = (config["optimizer." + key] for key in ("lr", "eps", "weight_decay", "clip"))
    beta1, beta2 = config["optimizer.beta1"], config["optimizer.beta2"]
    first = {name: torch.zeros_like(p) for name, p in model.p.items()}
    second = {name: torch.zeros_like(p) for name, p in model.p.items()}
    result = {"steps": []}
    for step in range(1, STEPS + 1):
        cross_entropy, z = model.losses(*batch(step, config["model.vocab_size"]))
        loss = cross_entropy + z
        grads = dict(zip(model.p, torch.autograd.grad(loss, list(model.p.values()))))
        norm = math.sqrt(sum(g.to(torch.float64).pow(2).sum().item() for g in grads.values()))
        result["steps"].append((loss.item(), norm, cross_entropy.item()))
        if step == 1:
            result["grad"] = checksums(grads)
        clip = min(1.0, largest / norm)
        with torch.no_grad():
            for name, p in model.p.items():
                g = grads[name] * clip
                first[name].mul_(beta1).add_((1.0 - beta1) * g)
                second[name].mul_(beta2).add_((1.0 - beta2) * g * g)
                if p.dim() == 2:
                    p.sub_(lr * decay * p)
                corrected = first[name] / (1.0 - beta1**step)
                p.sub_(lr * corrected / ((second[name] / (1.0 - beta2**step)).sqrt() + eps))
    result["param"] = checksums(model.p)
    return result


def relative_error(got, want):
    return max(abs(a - b) / abs(b) for a, b in zip(got, want))


def write_model(folder, name):
    config = MODELS[name]
    exact, single = train(config, torch.float64), train(config, torch.float32)
    lines = [f"config {key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in config.items()]
    lines.append(f"batch {B} {T}")
    for step, (loss, norm, cross_entropy) in enumerate(exact["steps"], 1):
        lines.append(f"step {step} {loss:.17g} {norm:.17g} {cross_entropy:.17g}")
    for kind in ("grad", "param"):
        lines += [f"{kind} {path} {norm:.17g} {probe:.17g}" for path, norm, probe in exact[kind]]
    for what, column in (("loss", 0), ("norm", 1)):
        error = relative_error([s[column] for s in single["steps"]], [s[column] for s in exact["steps"]])
        lines.append(f"error32 {what} {error:.2g}")
    for kind in ("grad", "param"):
        # A probe may be near zero, so its error is measured against the norm.
        norms = relative_error([row[1] for row in single[kind]], [row[1] for row in exact[kind]])
        probes = max(abs(a[2] - b[2]) / b[1] for a, b in zip(single[kind], exact[kind]))
        lines += [f"error32 {kind}_norm {norms:.2g}", f"error32 {kind}_probe {probes:.2g}"]
    write(os.path.join(folder, name + ".txt"), lines)
    clipped = sum(norm > config["optimizer.clip"] for _, norm, _ in exact["steps"])
    print(f"{name}: loss {exact['steps'][0][0]:.4f} -> {exact['steps'][-1][0]:.4f}, clipped in {clipped} of {STEPS} steps")


def write_formula(folder):
    """A few values of the formulas, so that the C++ side is checked before any model is."""
    lines = []
    for name in ("embedding.tokens.weight", "blocks.1.mlp.down.bias", "final_norm.weight", ""):
        values = u_values(name, 1000)
        lines += [f"u {name or '-'} {i} {values[i].item():.17g}" for i in (0, 1, 2, 999)]
    for name in ("embedding.tokens.weight", "blocks.1.mlp.down.bias", "blocks.0.attention.q_norm.weight"):
        lines += [f"value {name} {i} {initial_value(name, (8,))[i].item():.17g}" for i in (0, 7)]
    for step in (1, 10):
        tokens, labels = batch(step, COMMON["model.vocab_size"])
        for b in range(B):
            lines.append(f"tokens {step} {b} " + " ".join(str(t) for t in tokens[b].tolist()))
            lines.append(f"labels {step} {b} " + " ".join(str(t) for t in labels[b].tolist()))
    write(os.path.join(folder, "formula.txt"), lines)


def write(path, lines):
    head = [f"# tests/golden/models/make_golden.py, PyTorch {torch.__version__}, {datetime.date.today().isoformat()}",
            "# The script says what each line means."]
    with open(path, "w") as file:
        file.write("\n".join(head + lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=[*MODELS])
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_formula(arguments.out)
    for name in [arguments.only] if arguments.only else MODELS:
        write_model(arguments.out, name)


if __name__ == "__main__":
    main()
