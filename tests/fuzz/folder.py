"""Hugging Face folders: config.json, safetensors files and their index. An input is a JSON table of the files' names
and contents, each byte as the character of its number; under "expect": "error" where it must be refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

from pellucid.errors import PellucidError
from tests.fuzz.gguf import use
from tests.fuzz.mutation import mangled, varied
from tests.reference import tiny

__all__ = ["known", "mutate", "run"]

SMALL: dict[str, Any] = {"hidden": 32, "ff": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocab": 40}
SEEDS = [
    dataclasses.replace(model, **{k: v for k, v in SMALL.items() if k != "layers" or not model.gemma})
    for model in tiny.TINY
    if model.name in ("llama_gqa", "llama_mha_untied", "llama3_rope", "llama_linear", "gemma3", "qwen3")
]
Files = dict[str, bytes]


@functools.lru_cache
def _seed(index: int) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        tiny.write_folder(SEEDS[index], Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def mutate(rng: random.Random) -> bytes:
    files = dict(_seed(rng.randrange(len(SEEDS))))
    if rng.random() < 0.4:
        _split(files)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        rng.choice(CHANGES)(rng, files)
    return _packed(files)


def run(data: bytes) -> None:
    try:
        files = {str(name): str(text) for name, text in json.loads(data).items()}
    except (ValueError, AttributeError):  # a part of an input
        return
    expect = files.pop("expect", "")
    with tempfile.TemporaryDirectory(prefix="\x1b[2J\n") as folder:  # errors quote the path
        for name, text in files.items():
            path = Path(folder, os.path.basename(name) or "x")
            path.write_bytes(text.encode("latin-1", "replace"))
        try:
            use(folder)
        except PellucidError:
            return
    if expect == "error":
        raise AssertionError("loaded and computed; expected an error")


def known() -> dict[str, bytes]:
    """Keys that alter what a model computes, in configurations of models that are read without them."""
    out = {}
    for name, index, changes in (
        ("a bias in the MLP that no tensor has", 0, {"mlp_bias": True}),
        ("another activation", 0, {"hidden_act": "relu"}),
        ("bidirectional attention", 4, {"use_bidirectional_attention": True}),
        (
            "a window in a model without one",
            5,
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        ),
        ("attention biases that no tensor has", 0, {"attention_bias": True}),
        ("a kind of rotation that nobody knows", 0, {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}),
        ("a partial rotation", 0, {"partial_rotary_factor": 0.5}),
    ):
        files = dict(_seed(index))
        files["config.json"] = json.dumps({**json.loads(files["config.json"]), **changes}).encode()
        out[name] = _packed({**files, "expect": b"error"})
    return out


def _packed(files: Files) -> bytes:
    return json.dumps({name: data.decode("latin-1") for name, data in files.items()}).encode()


# ---- changes --------------------------------------------------------------------------------------------------------


def _split(files: Files) -> None:
    """The tensors in two files with an index."""
    data = files.pop("model.safetensors")
    header, body = _parts(data)
    names = [name for name in header if name != "__metadata__"]
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{part:05}-of-00002.safetensors"
        new: dict[str, Any] = {}
        content = b""
        for name in chosen:
            a, b = header[name]["data_offsets"]
            new[name] = {**header[name], "data_offsets": [len(content), len(content) + b - a]}
            content += body[a:b]
            weight_map[name] = file
        files[file] = _joined(new, content)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


def _parts(data: bytes) -> tuple[Any, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _config(rng: random.Random, files: Files) -> None:
    files["config.json"] = _json(rng, files.get("config.json", b"{}"))


def _json(rng: random.Random, data: bytes) -> bytes:
    try:
        return json.dumps(varied(rng, json.loads(data))).encode()
    except (ValueError, RecursionError):
        return data


def _header(rng: random.Random, files: Files) -> None:
    name = _some(rng, files, ".safetensors")
    try:
        header, body = _parts(files[name])
        files[name] = _joined(varied(rng, header), body)
    except (ValueError, KeyError, struct.error):
        pass


def _bytes(rng: random.Random, files: Files) -> None:
    name = rng.choice(list(files))
    files[name] = mangled(rng, files[name], 0, 4000 if rng.random() < 0.7 else None)


def _index(rng: random.Random, files: Files) -> None:
    name = "model.safetensors.index.json"
    if name in files:
        files[name] = _json(rng, files[name])


def _names(rng: random.Random, files: Files) -> None:
    name = rng.choice(list(files))
    data = files.pop(name)
    if not files or rng.random() < 0.5:
        files[rng.choice(("config.json", "model.safetensors", name + "x", "tokenizer.json", "tokenizer.model"))] = data


def _more(rng: random.Random, files: Files) -> None:
    name = rng.choice(("tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"))
    files[name] = json.dumps(varied(rng, {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})).encode()


def _some(rng: random.Random, files: Files, ending: str) -> str:
    return rng.choice([name for name in files if name.endswith(ending)] or list(files) or ["x"])


CHANGES = (_config, _config, _config, _header, _header, _bytes, _index, _index, _names, _more)
