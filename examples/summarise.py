"""Summarises text files: python examples/summarise.py README.md docs/*.md

A file that is too long for one prompt is summarised in parts. All parts of all files run in the same passes over the
weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid import Model

TASK = "Summarise the text in one sentence."


def parts(model: Model, text: str, tokens: int) -> list[str]:
    """The text in parts of at most a given number of tokens."""
    ids = model.tokenize(text, add_special=False)
    return [model.detokenize(ids[start : start + tokens]) for start in range(0, len(ids), tokens)]


def conversation(part: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": TASK}, {"role": "user", "content": part}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Summarises text files.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--part", type=int, default=1024, help="tokens of a part (default: 1024)")
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()

    with Model.load(arguments.model) as model:
        found = [(file, part) for file in arguments.files for part in parts(model, file.read_text(), arguments.part)]
        conversations = [conversation(part) for _, part in found]
        answers = model.chat(conversations, max_tokens=arguments.max_tokens, temperature=0, repeat_penalty=1.1)
        for (file, _), answer in zip(found, answers):
            print(f"{file}: {' '.join(answer.text.split())}")


if __name__ == "__main__":
    main()
