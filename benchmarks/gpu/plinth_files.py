# SPDX-License-Identifier: Apache-2.0
"""Plinth's files as other programs read them: checkpoints (docs/checkpoint_format.md), token shards and the order of samples
(docs/data.md). Needs numpy and nothing of Plinth but tests/golden/sampler.py's formulas."""
import contextlib
import importlib.util
import io
import json
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


# ---- checkpoints ------------------------------------------------------------------------------------------------------
def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, value) of a protobuf message: integers, or bytes for what has a length."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        elif kind == 5:
            value, at = struct.unpack_from("<I", data, at)[0], at + 4
        elif kind == 1:
            value, at = struct.unpack_from("<Q", data, at)[0], at + 8
        else:
            raise ValueError(f"protobuf wire type {kind}")
        yield key >> 3, value


def packed(data):
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def pieces(index_file):
    """Of an index: dicts with the fields of message Piece that say where an element lies."""
    names = {1: "tensor", 2: "dtype", 3: "shape", 4: "box_offset", 5: "box_shape", 6: "begin", 7: "end", 8: "offset"}
    data = index_file.read_bytes()[64:-64]
    for number, message in fields(data):
        if number != 3:
            continue
        piece = {"begin": 0, "end": 0, "offset": 0, "shape": [], "box_offset": [], "box_shape": []}
        for field, value in fields(message):
            if field in (3, 4, 5):
                piece[names[field]] += packed(value) if isinstance(value, bytes) else [value]
            elif field in names:
                piece[names[field]] = value.decode() if field == 1 else value
        yield piece


def newest_checkpoint(run):
    folders = [f for f in (pathlib.Path(run) / "checkpoints").glob("step-*.attempt-*") if (f / "COMMIT").exists()]
    if not folders:
        raise SystemExit(f"{run}: no checkpoint")
    return max(folders)


def read_checkpoint(folder, wanted):
    """{name: fp32 array} of those tensors for whose name `wanted` returns a name. Checksums are not checked."""
    tensors = {}
    for index in sorted(pathlib.Path(folder).glob("data-*.index")):
        data = np.memmap(index.with_suffix(".bin"), dtype=np.uint8, mode="r")
        for piece in pieces(index):
            name = wanted(piece["tensor"])
            if not name:
                continue
            if piece["dtype"] != 1:
                raise SystemExit(f"{piece['tensor']}: dtype {piece['dtype']}, expected fp32")
            if name not in tensors:
                tensors[name] = np.empty(piece["shape"], dtype=np.float32)
            box = tensors[name][tuple(slice(o, o + n) for o, n in zip(piece["box_offset"], piece["box_shape"]))]
            values = data[piece["offset"]:piece["offset"] + 4 * (piece["end"] - piece["begin"])].view(np.float32)
            if box.flags.c_contiguous:
                box.reshape(-1)[piece["begin"]:piece["end"]] = values
            else:
                flat = box.reshape(-1)  # a copy
                flat[piece["begin"]:piece["end"]] = values
                box[...] = flat.reshape(box.shape)
    return tensors


# ---- data sets --------------------------------------------------------------------------------------------------------
def write_tokens(folder, tokens, vocab, prepared):
    """A data set of one shard and one document. `prepared` is the manifest of any other data set: its tokenizer is named."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind, dtype = (8, np.uint16) if vocab < 65500 else (4, np.int32)
    tokens.astype(dtype).tofile(folder / "train-00000.bin")
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, kind, 1, 2)
    index += struct.pack("<iqqq", len(tokens), 0, 0, 1)
    (folder / "train-00000.idx").write_bytes(index)
    shard = {"prefix": "train-00000", "tokens": len(tokens), "documents": 1, "bytes": len(tokens),
             "bin_xxh3": f"{len(tokens):016x}", "idx_xxh3": f"{vocab:016x}"}
    split = {"tokens": len(tokens), "documents": 1, "bytes": len(tokens), "shards": [shard]}
    manifest = dict(prepared, source="benchmark", vocab_size=vocab, dtype="u16" if kind == 8 else "i32", dropped={},
                    splits={"train": split})
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def draw_tokens(count, vocab, seed=1, streams=2048):
    """Text-like: token frequencies fall like 1 / rank, and half of the tokens follow from the one before."""
    random = np.random.default_rng(seed)
    follows = random.permutation(vocab)
    columns = -(-count // streams)
    ranks = np.minimum(np.exp(random.random((columns, streams), dtype=np.float32) * np.log(vocab)), vocab).astype(np.int64) - 1
    drawn = random.permutation(vocab)[ranks]
    is_new = random.random((columns, streams), dtype=np.float32) < 0.5
    for i in range(1, columns):
        drawn[i] = np.where(is_new[i], drawn[i], follows[drawn[i - 1]])
    return drawn.T.reshape(-1)[:count]


def golden_sampler():
    spec = importlib.util.spec_from_file_location("sampler", ROOT / "tests/golden/sampler.py")
    module = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its golden vectors
        spec.loader.exec_module(module)
    return module


class Samples:
    """Sample i of a run over one data set: T + 1 tokens, in the order in which Plinth reads them."""

    def __init__(self, folder, length, seed=1234):
        self.length, self.seed = length, seed
        manifest = json.loads((pathlib.Path(folder) / "manifest.json").read_text())
        shards = manifest["splits"]["train"]["shards"]
        if len(shards) != 1:
            raise SystemExit(f"{folder}: {len(shards)} shards, this reader knows one")
        dtype = np.uint16 if manifest["dtype"] == "u16" else np.int32
        self.tokens = np.memmap(pathlib.Path(folder) / (shards[0]["prefix"] + ".bin"), dtype=dtype, mode="r")
        self.golden = golden_sampler()

    def begin_of(self, sample):
        windows = len(self.tokens) // self.length
        epoch, place = divmod(sample, windows)
        key = self.golden.hash_of(self.seed, 1, 0, epoch)
        window = self.golden.permuted(place, windows, key)
        phase = self.golden.hash_of(self.seed, 2, 0, epoch) % self.length
        return (phase + window * self.length) % len(self.tokens)

    def batch(self, first, rows):
        """int64 [rows, T + 1]"""
        out = np.empty((rows, self.length + 1), dtype=np.int64)
        for row in range(rows):
            begin = self.begin_of(first + row)
            part = self.tokens[begin:begin + self.length + 1]
            out[row, :len(part)] = part
            out[row, len(part):] = self.tokens[:self.length + 1 - len(part)]  # goes round at the end
        return out
