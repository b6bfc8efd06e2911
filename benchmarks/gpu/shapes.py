# SPDX-License-Identifier: Apache-2.0
"""The models of the comparison, as Plinth's own configuration keys, and what a token of theirs costs."""

GPT2 = {"vocab_size": 50304, "norm": "layer", "positions": "learned", "activation": "gelu_tanh", "tied_head": True,
        "norm_eps": 1e-5, "qkv_bias": True, "attention_bias": True, "mlp_bias": True}
LLAMA = {"vocab_size": 128256, "norm": "rms", "positions": "rotary", "activation": "swiglu", "tied_head": True,
         "norm_eps": 1e-5, "qkv_bias": False, "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0}


def gpt2(layers, width, heads, tokens=1024, **other):
    return {**GPT2, "layers": layers, "width": width, "heads": heads, "kv_heads": heads, "ffn_width": 4 * width,
            "max_positions": tokens, "tokens": tokens, **other}


def llama(layers, width, heads, kv_heads, ffn_width, tokens, **other):
    return {**LLAMA, "layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads, "ffn_width": ffn_width,
            "max_positions": tokens, "tokens": tokens, **other}


# The vocabulary of GPT-2 is padded to 50304, which is a model of its own: nothing is masked on either side. "batch" is the
# micro-batch and the global batch in samples: half a million tokens a step.
SHAPES = {
    "gpt2-124m": gpt2(12, 768, 12, batch=(32, 512)),
    "gpt2-350m": gpt2(24, 1024, 16, batch=(16, 512)),
    "gpt2-774m": gpt2(36, 1280, 20, batch=(16, 512)),
    "gpt2-1558m": gpt2(48, 1600, 25, batch=(8, 512)),
    "llama-1b": llama(16, 2048, 32, 8, 8192, 2048, batch=(8, 256)),
    "llama-8b-8layers": llama(8, 4096, 32, 8, 14336, 4096, batch=(2, 128), tied_head=False),
    "tiny-gpt": gpt2(2, 64, 4, tokens=64, vocab_size=512, batch=(2, 8)),
    "tiny-llama": llama(2, 64, 4, 2, 176, 64, vocab_size=512, batch=(2, 8)),
}
MODEL_KEYS = [*GPT2, "rope_theta", "layers", "width", "heads", "kv_heads", "ffn_width", "max_positions"]
PEAK_FLOPS = 989.4e12  # H100 and H200 SXM, dense bf16: 132 multiprocessors x 4096 FLOP a clock x 1830 MHz


def model_options(shape):
    """Words of plinth's command line."""
    return [f"model.{key}={str(shape[key]).lower() if isinstance(shape[key], bool) else shape[key]}"
            for key in MODEL_KEYS if key in shape]


def matmul_parameters(shape):
    """Weights in products, the head included, look-ups left out."""
    D, F, K = shape["width"], shape["ffn_width"], shape["width"] // shape["heads"]
    attention = D * K * (shape["heads"] + 2 * shape["kv_heads"]) + D * D
    mlp = (3 if shape["activation"] == "swiglu" else 2) * D * F
    return shape["layers"] * (attention + mlp) + shape["vocab_size"] * D


def flops_per_token(shape):
    """(causal, full): 6 N + 6 L D T, and 6 N + 12 L D T as PaLM counted; forward and backward, recomputation never."""
    attention = 6 * shape["layers"] * shape["width"] * shape["tokens"]
    return 6 * matmul_parameters(shape) + attention, 6 * matmul_parameters(shape) + 2 * attention
