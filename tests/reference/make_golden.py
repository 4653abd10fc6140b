"""Makes the stored reference values (extra `reference`):

    python -m tests.reference.make_golden --smollm2 FILE.gguf --gemma3 FILE.gguf --tiny

Each option makes one kind; files whose SHA-256 is not the catalogue's are refused. Takes about three minutes in all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.reference import corpus, golden, hf, kl, tiny


def real_model(model: corpus.ReferenceModel, path: Path) -> None:
    """Runs every window through transformers in float32 and writes the model's golden file."""
    found = corpus.file_sha256(path)
    if found != model.sha256:
        raise SystemExit(f"{path}: sha256 is {found}, expected {model.sha256} ({model.name})")
    reference = hf.load_gguf(path)
    check_first_tokens(model, reference)
    windows = corpus.windows(hf.tokenize(path, corpus.read_text(), model), model.bos)
    shape = (*windows.shape, golden.TOP)
    ids = np.empty(shape, dtype=np.int32)
    log_p = np.empty(shape)
    rest = np.empty(windows.shape)
    for w, window in enumerate(windows):
        logits = hf.logits(reference, window)
        for start in range(0, len(window), kl.BLOCK):
            rows = slice(start, start + kl.BLOCK)
            block = kl.log_softmax(logits[rows])
            ids[w, rows] = likeliest(block)
            log_p[w, rows], rest[w, rows] = kl.top_and_rest(block, ids[w, rows])
        print(f"{model.name}: window {w + 1} of {len(windows)}", flush=True)
    made_of = {"model_sha256": found, "text_sha256": corpus.TEXT_SHA256, **hf.versions()}
    golden.save(model.golden, golden.Golden(windows, ids, log_p, rest, made_of))
    print(f"{model.golden.name}: {model.golden.stat().st_size} bytes")


def likeliest(log_p: kl.Floats) -> np.ndarray:
    """Ids of the TOP likeliest tokens of each row, likeliest first; of equals, the lower id first."""
    top = np.sort(np.argpartition(-log_p, golden.TOP - 1, axis=-1)[:, : golden.TOP], axis=-1)
    order = np.argsort(-np.take_along_axis(log_p, top, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(top, order, axis=-1)


def check_first_tokens(model: corpus.ReferenceModel, reference: object) -> None:
    """Refuses a reference that does not reproduce the published first tokens within 0.001."""
    log_p = kl.log_softmax(hf.logits(reference, model.prompt_ids)[-1:])[0]
    for token, text, expected in model.first_tokens:
        if abs(log_p[token] - expected) > 1e-3:
            raise SystemExit(f"{model.name}: log p({text!r}) is {log_p[token]:.4f}, expected {expected:.4f}")


def tiny_models() -> None:
    """Runs the tiny models through transformers in float64 (norms, rotations and softmax stay float32 there)."""
    arrays: dict[str, np.ndarray] = {}
    for model in tiny.TINY:
        arrays[f"{model.name}/weights_sha256"] = np.array(tiny.weights_sha256(model))
        with tempfile.TemporaryDirectory() as folder:
            reference = hf.load_folder(tiny.write_folder(model, Path(folder)), torch.float64)
            for length in tiny.LENGTHS:
                logits = hf.logits(reference, tiny.token_ids(model, length))
                arrays[f"{model.name}/{length}"] = logits.astype(np.float32)
    arrays["made_of"] = np.array(sorted(f"{key}={value}" for key, value in hf.versions().items()))
    np.savez_compressed(tiny.GOLDEN, **arrays)  # type: ignore[arg-type]
    print(f"{tiny.GOLDEN.name}: {tiny.GOLDEN.stat().st_size} bytes")


def main() -> None:
    """Makes the values that the command line selects."""
    parser = argparse.ArgumentParser(description="Make the stored reference values.")
    parser.add_argument("--smollm2", type=Path, metavar="FILE", help="the catalogue's SmolLM2 file")
    parser.add_argument("--gemma3", type=Path, metavar="FILE", help="the catalogue's Gemma 3 file")
    parser.add_argument("--tiny", action="store_true", help="the tiny models")
    options = parser.parse_args()
    if options.smollm2:
        real_model(corpus.SMOLLM2, options.smollm2)
    if options.gemma3:
        real_model(corpus.GEMMA3, options.gemma3)
    if options.tiny:
        tiny_models()
    if not (options.smollm2 or options.gemma3 or options.tiny):
        parser.error("nothing to make: name at least one of --smollm2, --gemma3, --tiny")


if __name__ == "__main__":
    main()
