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
# micro-batch and the global batch in samples: half a million tokens a step; 131,072 and 65,536 for more than 8 layers of 8B, whose
# step would take most of a minute.
SHAPES = {
    "gpt2-124m": gpt2(12, 768, 12, batch=(32, 512)),
    "gpt2-350m": gpt2(24, 1024, 16, batch=(16, 512)),
    "gpt2-774m": gpt2(36, 1280, 20, batch=(16, 512)),
    "gpt2-1558m": gpt2(48, 1600, 25, batch=(8, 512)),
    "llama-1b": llama(16, 2048, 32, 8, 8192, 2048, batch=(8, 256)),
    "llama-8b-8layers": llama(8, 4096, 32, 8, 14336, 4096, batch=(2, 128), tied_head=False),
    "llama-8b-16layers": llama(16, 4096, 32, 8, 14336, 4096, batch=(2, 32), tied_head=False),
    "llama-8b": llama(32, 4096, 32, 8, 14336, 4096, batch=(1, 16), tied_head=False),
    "tiny-gpt": gpt2(2, 64, 4, tokens=64, vocab_size=512, batch=(2, 8)),
    "tiny-llama": llama(2, 64, 4, 2, 176, 64, vocab_size=512, batch=(2, 8)),
}
MODEL_KEYS = [*GPT2, "rope_theta", "layers", "width", "heads", "kv_heads", "ffn_width", "max_positions"]
# The side-by-side rows of an H200 (141 GB), those first that say most: {name: (shape, tokens/s to reach, words for
# compare_pytorch.py)}. Whole 8B: 16 bytes a parameter and more do not fit, so that Plinth keeps moments in bf16, PyTorch all in bf16.
LARGE = ["--how", "blocks", "--warmup", "1", "--least", "4"]
ROWS = {
    "gpt2-124m": ("gpt2-124m", 560e3, ["--how", "compiled", "--rounds", "2", "--seconds", "15"]),
    "gpt2-1558m": ("gpt2-1558m", 54e3, [*LARGE, "--micro-batch", "16"]),
    "llama-8b-16layers": ("llama-8b-16layers", None, LARGE),
    "llama-8b": ("llama-8b", 12e3, [*LARGE, "--recompute", "norms", "--set", "optimizer.moments=bf16",
                                    "--torch-parameters", "bf16"]),
    "gpt2-350m": ("gpt2-350m", 210e3, ["--how", "compiled", "--seconds", "20"]),
    "gpt2-774m": ("gpt2-774m", 100e3, [*LARGE, "--least", "5"]),
    "llama-1b": ("llama-1b", 70e3, LARGE),
    "gpt2-1558m-fp8": ("gpt2-1558m", None, [*LARGE, "--micro-batch", "16", "--fp8", "current"]),
    "llama-1b-fp8": ("llama-1b", None, [*LARGE, "--fp8", "current"]),
    "llama-8b-16layers-fp8": ("llama-8b-16layers", None, [*LARGE, "--fp8", "current"]),
    # PyTorch's other ways, each of which takes minutes to compile: the best of a shape counts.
    "gpt2-124m-max-autotune": ("gpt2-124m", None, ["--how", "max-autotune", "--parts", "torch"]),
    "gpt2-124m-graphs": ("gpt2-124m", None, ["--how", "graphs", "--parts", "torch"]),
    "gpt2-1558m-compiled": ("gpt2-1558m", None, [*LARGE, "--how", "compiled", "--micro-batch", "16", "--parts", "torch"]),
    "llama-1b-compiled": ("llama-1b", None, [*LARGE, "--how", "compiled", "--parts", "torch"]),
}
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
