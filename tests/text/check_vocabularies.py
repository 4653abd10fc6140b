"""Checks real vocabularies, which are too large to keep here, against ids made by the models' own tokenizers.

    python -m tests.text.check_vocabularies DIRECTORY

DIRECTORY holds vocabulary-only GGUF files ``X.gguf``, each with ``X.gguf.inp`` (texts, with a line
"__ggml_vocab_test__" between two of them) and ``X.gguf.out`` (a line of ids per text), as the folder models/ of
llama.cpp's source does; its .out files are made by transformers. Also reads SentencePiece files ``*.model*`` there, and
compares them with the sentencepiece package on hard and random strings.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from pellucid.errors import TokenizerError
from pellucid.tokenizer import Tokenizer
from tests.text.published import TEXTS

RANGES = [*[(32, 127)] * 4, (0, 32), (0xA0, 0x250), (0x370, 0x530), (0x5D0, 0x700), (0x900, 0xA00), (0xE00, 0xE80)]
RANGES += [(0x3040, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0x1F300, 0x1F600)]


def random_texts(count: int) -> list[str]:
    chance = random.Random(1)
    letters = [chr(code) for start, end in RANGES for code in range(start, end)]
    return ["".join(chance.choices(letters, k=chance.randrange(1, 60))) for _ in range(count)]


def check(path: Path) -> int | None:
    """How many texts are encoded wrongly; None if there is nothing to compare with."""
    if path.suffix == ".gguf":
        texts_file, ids_file = (path.with_name(path.name + end) for end in (".inp", ".out"))
        if not texts_file.exists():
            return None
        texts = texts_file.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        wanted = [list(map(int, line.split())) for line in ids_file.read_text().splitlines()]
    else:
        import sentencepiece

        texts = [*TEXTS, *random_texts(3000)]
        wanted = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(texts)
    ours = Tokenizer.load(path)
    wrong = 0
    for text, ids in zip(texts, wanted, strict=False):
        if ours.encode(text, add_special=False) != ids or ours.decode(ids) != text:
            wrong += 1
            print(f"  {text!r}: {ours.encode(text, add_special=False)}, expected {ids}")
    return wrong


if __name__ == "__main__":
    total = 0
    for one in sorted(p for p in Path(sys.argv[1]).iterdir() if p.suffix == ".gguf" or ".model" in p.suffixes):
        try:
            found = check(one)
        except TokenizerError as error:
            print(f"{one.name}: refused: {error}")
            continue
        print(f"{one.name}: {'nothing to compare with' if found is None else f'{found} wrong'}")
        total += found or 0
    sys.exit(total > 0)
