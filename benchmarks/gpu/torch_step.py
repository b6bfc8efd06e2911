#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The peer's training step, in a process of its own: started by compare_pytorch.py with a JSON object on the command line.

    how       eager | blocks | compiled | max-autotune | graphs (reduce-overhead): what torch.compile is asked for
    precision fp32 parameters, gradients and AdamW states; products in bf16 by autocast (dtype fp32: all fp32); with `fp8` those of
              the blocks 8 bits in; with `parameters` bf16 the three in bf16 too

A step: per micro-batch the copy to the device, forward, backward (gradients add up in fp32); clip by the global norm; fused AdamW;
gradients cleared; the loss read back. Prints one JSON line."""
import json
import math
import os
import queue
import statistics
import sys
import threading
import time

import numpy as np
import plinth_files
import torch
import torch.nn.functional as F
from torch_model import Model


class Loader:
    """Micro-batches in Plinth's order, read ahead by a thread into pinned memory."""

    def __init__(self, samples, rows, device, depth=8):
        self.samples, self.rows, self.device = samples, rows, device
        self.ready = queue.Queue(depth)
        threading.Thread(target=self.fill, daemon=True).start()

    def fill(self):
        first = 0
        while True:
            batch = torch.from_numpy(self.samples.batch(first, self.rows))
            self.ready.put(batch.pin_memory() if self.device == "cuda" else batch)
            first += self.rows

    def next(self):
        batch = self.ready.get().to(self.device, non_blocking=True)
        return batch[:, :-1], batch[:, 1:]


class Trainer:
    def __init__(self, task):
        self.task, self.shape, self.device = task, task["shape"], task["device"]
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high" if task["dtype"] == "bf16" else "highest")
        self.compute = torch.bfloat16 if task["dtype"] == "bf16" else torch.float32
        linear = torch.nn.Linear
        if task.get("fp8"):
            from torch_fp8 import Linear as linear
        self.model = Model(self.shape, self.compute, linear)
        for name, parameter in self.model.named_parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
        if task.get("weights"):
            self.load(task["weights"])
        self.model.to(self.device)
        if task.get("parameters") == "bf16":  # the angles of rotary positions stay in fp32
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        self.optimizer = self.make_optimizer()
        self.loader = self.new_loader()
        self.micro_batches = task["global_batch"] // task["micro_batch"]
        self.step_model = self.compiled(task["how"])
        self.clear_gradients()

    def new_loader(self):
        """From the first sample on."""
        return Loader(plinth_files.Samples(self.task["data"], self.shape["tokens"]), self.task["micro_batch"], self.device)

    def load(self, run):
        given = plinth_files.read_checkpoint(plinth_files.newest_checkpoint(run),
                                             lambda name: name[6:] if name.startswith("model.") else None)
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in given.items()}, strict=True)

    def make_optimizer(self):
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        vectors = [p for p in self.model.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        for choice in ({"fused": True}, {"foreach": True}):
            try:
                optimizer = torch.optim.AdamW(groups, lr=self.task["lr"], betas=(0.9, 0.95), eps=1e-8, **choice)
                self.adamw = next(iter(choice))
                return optimizer
            except (RuntimeError, TypeError):
                continue
        raise SystemExit("this PyTorch has neither a fused nor a foreach AdamW")

    def compiled(self, how):
        if how == "eager":
            return self.model
        if how == "blocks":
            self.model.compile_regions()
            return self.model
        modes = {"compiled": None, "max-autotune": "max-autotune-no-cudagraphs", "graphs": "reduce-overhead"}
        return torch.compile(self.model, mode=modes[how])

    def backward(self):
        """Mean loss of the step's micro-batches, on the device."""
        total = torch.zeros((), device=self.device)
        for _ in range(self.micro_batches):
            inputs, targets = self.loader.next()
            if self.task["how"] == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.compute == torch.bfloat16):
                loss = self.step_model(inputs, targets) / self.micro_batches
            total += loss.detach()
            loss.backward()
        return total

    def step(self):
        total = self.backward()
        clip = {"foreach": True} if torch.__version__ >= "2" else {}
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, **clip)
        self.optimizer.step()
        self.clear_gradients()
        return total.item(), norm

    def clear_gradients(self):
        """CUDA graphs write each backward pass's gradients to the same place: what adds up must lie elsewhere."""
        if self.task["how"] != "graphs":
            self.optimizer.zero_grad(set_to_none=True)
            return
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch._foreach_zero_([parameter.grad for parameter in self.model.parameters()])


def attention_backends(task):
    """The fastest SDPA backend for this shape: forward and backward of one layer, each backend timed."""
    if task["device"] != "cuda" or not hasattr(torch.nn, "attention"):
        return None, {}
    from torch.nn.attention import SDPBackend, sdpa_kernel
    shape, B, T = task["shape"], task["micro_batch"], task["shape"]["tokens"]
    H, G, K = shape["heads"], shape["kv_heads"], shape["width"] // shape["heads"]
    dtype = torch.bfloat16 if task["dtype"] == "bf16" else torch.float32
    q = torch.randn(B, T, H, K, device="cuda", dtype=dtype).transpose(1, 2).requires_grad_()
    k, v = (torch.randn(B, T, G, K, device="cuda", dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(2))
    times = {}
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        if name == "MATH" and times:
            continue
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                for i in range(6):
                    if i == 2:
                        torch.cuda.synchronize()
                        began = time.perf_counter()
                    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G != H)
                    out.backward(out)
                torch.cuda.synchronize()
                times[name] = (time.perf_counter() - began) / 4 * 1e3
        except (RuntimeError, AttributeError):
            continue
    best = min(times, key=times.get)
    return sdpa_kernel(getattr(SDPBackend, best)), times


def check(task):
    """The gate's half: losses and norms of some steps; cosines of the first gradient with Plinth's first moments."""
    trainer = Trainer(task)
    moments = plinth_files.read_checkpoint(plinth_files.newest_checkpoint(task["weights"]),
                                           lambda name: name[12:] if name.startswith("optimizer.m.") else None)
    trainer.backward()
    dots, worst = np.zeros(3), (2.0, "")
    for name, parameter in trainer.model.named_parameters():
        mine = parameter.grad.detach().double().cpu().numpy().reshape(-1)
        theirs = moments[name].astype(np.float64).reshape(-1)
        dot = np.array([mine @ theirs, mine @ mine, theirs @ theirs])
        dots += dot
        worst = min(worst, (float(dot[0] / math.sqrt(dot[1] * dot[2] + 1e-300)), name))
    trainer.clear_gradients()
    trainer.loader = trainer.new_loader()
    losses, norms = [], []
    for _ in range(task["steps"]):
        loss, norm = trainer.step()
        losses.append(loss)
        norms.append(float(norm))
    return {"losses": losses, "norms": norms, "cosine": float(dots[0] / math.sqrt(dots[1] * dots[2])), "worst_cosine": worst}


def measure(task):
    began = time.perf_counter()
    trainer = Trainer(task)
    trainer.step()
    first = time.perf_counter() - began
    for _ in range(task["warmup"]):
        trainer.step()
    if task["device"] == "cuda":
        torch.cuda.synchronize()
    print("timing", flush=True)  # the parent samples the card from here on
    times = []
    while sum(times) < task["seconds"] or len(times) < task.get("least", 5):
        start = time.perf_counter()
        loss, _ = trainer.step()
        times.append(time.perf_counter() - start)
    result = {"step_seconds": times, "first_step_seconds": first, "loss": loss, "adamw": trainer.adamw,
              "median": statistics.median(times)}
    if task["device"] == "cuda":
        result["allocator_gib"] = torch.cuda.max_memory_allocated() / 2**30
        result["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return result


def kernels(task):
    """[(name, seconds)] of one step's kernels, from PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile
    trainer = Trainer(task)
    for _ in range(3):
        trainer.step()
    steps = 2
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            trainer.step()
        torch.cuda.synchronize()
    rows = [(event.key, getattr(event, "self_device_time_total", 0) * 1e-6 / steps) for event in profiler.key_averages()]
    return {"kernels": [row for row in rows if row[1] > 0]}


def main():
    task = json.loads(sys.argv[1])
    if task["device"] == "cpu":
        torch.set_num_threads(task["threads"])
    backend, times = attention_backends(task)
    result = {"torch": torch.__version__, "sdpa_ms": times}
    if task["device"] == "cuda":
        result["cuda"], result["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        result["gpu"] = torch.cuda.get_device_name()
    run = {"gate": check, "time": measure, "kernels": kernels}[task["kind"]]
    if backend:
        with backend:
            result.update(run(task))
    else:
        result.update(run(task))
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
    os._exit(0)  # the loader's thread never ends


if __name__ == "__main__":
    main()
