"""Hashes of what models compute, to show that a change of the code changed no bit of any result.

    python -m tests.reference.hashes [--gemma] > before.txt      # then after the change, and compare with diff

A line per model, instruction set, cache type and precision: the SHA-256 of the logits of one prompt in one pass, of the
same prompt in small passes, and of tokens drawn with every filter. Only the public interface is used, so that the
script runs on both sides of a change. What this processor cannot run is not listed.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pellucid import Model
from pellucid.options import Kv, Precision
from tests.conftest import all_isas, model_file
from tests.engine.models import BY_NAME, MIXES, write

KV: tuple[Kv, ...] = ("f32", "f16", "bf16", "int8")
PRECISION: tuple[Precision, ...] = ("default", "high")
FILTERS: dict[str, Any] = {
    "temperature": 0.9,
    "top_k": 30,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.95,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "seed": 7,
    "logprobs": 2,
}


def digest(*arrays: object) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:24]


def hashes(path: Path, tokens: int, isa: str, kv: Kv, precision: Precision) -> str:
    with Model.load(path, isa=isa, kv=kv, precision=precision, threads=2) as model:
        vocab = model.info().vocab
        ids = [int(i) for i in np.random.default_rng(3).integers(0, vocab, tokens)]
        whole = model.logits(ids)
        parts = model.logits(ids[: tokens // 2], chunk=5)
        if not np.isfinite(whole).all() or not (whole[: tokens // 2] == parts).all():
            raise SystemExit(f"{path.name}, {isa}, {kv}, {precision}: logits differ by the cut of the prompt")
        done = model.generate(ids[:9], max_tokens=12, ignore_eos=True, **FILTERS)
        drawn = [[one.logprob, *(p for _, _, p in one.top)] for one in done.logprobs]
        return f"{digest(whole)} {digest(np.array(done.ids, np.int32), np.array(drawn, np.float64))}"


def cases(folder: Path, gemma: bool) -> Iterator[tuple[str, Path, int]]:
    """Name, file, tokens: every tiny model in every mix of formats that its widths allow, then the real ones."""
    for name, model in BY_NAME.items():
        for mix in MIXES:
            widths = (model.hidden, model.ff, model.heads * model.head_dim)
            if any(width % (256 if mix == "K" else 1 if mix in ("F32", "F16", "BF16") else 32) for width in widths):
                continue
            yield f"{name}-{mix}", write(folder, name, mix), 130
    yield "smollm2-135m", model_file("smollm2-135m"), 24
    if gemma:
        yield "gemma3-270m", model_file("gemma3-270m"), 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gemma", action="store_true", help="also the Gemma 3 file of the catalogue (253 MB)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, path, tokens in cases(Path(folder), asked.gemma):
            for isa in all_isas():
                for kv in KV:
                    for precision in PRECISION:
                        found = hashes(path, tokens, isa, kv, precision)
                        print(f"{name} {isa} {kv} {precision} {found}", flush=True)


if __name__ == "__main__":
    main()
