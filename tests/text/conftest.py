"""Small handwritten vocabularies with every kind of token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.text import Vocabulary
from pellucid.text.bpe import byte_characters
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

SPACE = "\u2581"


Parts = dict[str, Any]


@pytest.fixture(scope="session")
def bpe_parts() -> Parts:
    """Arguments of a byte-level vocabulary: 256 bytes, a few words, control and user-defined tokens."""
    merges = ["h e", "t he", "Ġ the", "Ġ a", "l l", "he ll", "hell o", "1 2", "Ġ Ġ"]
    pieces = [*byte_characters().values(), *(m.replace(" ", "") for m in merges)]
    types = [NORMAL] * len(pieces)
    for text, kind in [
        ("<|endoftext|>", CONTROL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", CONTROL),
        ("<think>", USER_DEFINED),
        ("<think>>", USER_DEFINED),
        ("<|user|>", USER_DEFINED),
    ]:
        pieces.append(text)
        types.append(kind)
    at = pieces.index
    return {
        "model": "bpe",
        "pre": "gpt-2",
        "pieces": pieces,
        "types": np.array(types, np.int32),
        "merges": merges,
        "bos": at("<|im_start|>"),
        "eos": at("<|endoftext|>"),
    }


@pytest.fixture(scope="session")
def spm_parts() -> Parts:
    """Arguments of a SentencePiece vocabulary like Gemma's: 256 bytes, runs of spaces, chat markers."""
    rows: list[tuple[str, float, int]] = [("<pad>", 0, CONTROL), ("<eos>", 0, CONTROL), ("<bos>", 0, CONTROL)]
    rows.append(("<unk>", 0, UNKNOWN))
    rows += [(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    rows += [("<end_of_turn>", 0, CONTROL), ("  ", 0, USER_DEFINED), ("   ", 0, USER_DEFINED)]
    rows += [("<think>", 0, USER_DEFINED), ("<|user|>", 0, USER_DEFINED)]
    words = [
        "he",
        "ll",
        f"{SPACE}t",
        "hell",
        "hello",
        f"{SPACE}the",
        f"{SPACE}hello",
        f"{SPACE}",
        *"abcdehlort<>|",
        "é",
    ]
    rows += [(word, -float(rank), NORMAL) for rank, word in enumerate(words)]
    pieces, scores, types = zip(*rows, strict=True)
    return {
        "model": "spm",
        "pieces": [piece.encode() for piece in pieces],
        "scores": np.array(scores, np.float32),
        "types": np.array(types, np.int32),
        "bos": 2,
        "eos": 1,
        "unk": 3,
        "add_bos": True,
    }


@pytest.fixture
def bpe(bpe_parts: Parts) -> Vocabulary:
    return Vocabulary(**bpe_parts)


@pytest.fixture
def spm(spm_parts: Parts) -> Vocabulary:
    return Vocabulary(**spm_parts)


WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """Writes a vocabulary-only GGUF file; keywords are metadata, the value None leaves a key out."""

    def write(parts: Parts, architecture: str = "llama", **changes: Any) -> Path:
        from gguf import GGUFWriter

        path = tmp_path / "vocabulary.gguf"
        writer = GGUFWriter(path, architecture)
        pieces = [p.decode() if isinstance(p, bytes) else p for p in parts["pieces"]]
        values: dict[str, Any] = {
            "model": "gpt2" if parts["model"] == "bpe" else "llama",
            "pre": parts.get("pre"),
            "tokens": pieces,
            "scores": None if parts.get("scores") is None else parts["scores"].tolist(),
            "token_type": parts["types"].tolist(),
            "merges": parts.get("merges"),
            "bos_token_id": parts["bos"],
            "eos_token_id": parts["eos"],
            "add_space_prefix": False,
            **changes,
        }
        for name, value in values.items():
            key = f"tokenizer.ggml.{name}" if name != "chat_template" else "tokenizer.chat_template"
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, np.uint32):
                writer.add_uint32(key, int(value))
            elif isinstance(value, int):
                writer.add_int32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif value is not None:
                writer.add_array(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    return write
