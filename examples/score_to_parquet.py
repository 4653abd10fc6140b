"""Scores the lines of a text file into a Parquet file: python examples/score_to_parquet.py lines.txt scores.parquet

A row per line, with its bits per byte: the lower, the less the text surprises the model. Needs pyarrow.
"""

from __future__ import annotations

import argparse
from itertools import islice
from math import log
from pathlib import Path

import pyarrow
from pyarrow import parquet

from pellucid import Model

SCHEMA = pyarrow.schema([("text", "string"), ("tokens", "int32"), ("logprob", "float64"), ("bits_per_byte", "float64")])


def table(model: Model, texts: list[str]) -> pyarrow.Table:
    """The scores of some texts, which run in the same forward passes."""
    scores = model.score(texts)
    return pyarrow.table(
        {
            "text": texts,
            "tokens": [len(score.ids) for score in scores],
            "logprob": [score.total for score in scores],
            "bits_per_byte": [-s.total / log(2) / len(t.encode()) for s, t in zip(scores, texts)],
        },
        schema=SCHEMA,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores the lines of a text file into a Parquet file.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=64, help="lines that are scored together (default: 64)")
    arguments = parser.parse_args()

    with (
        Model.load(arguments.model) as model,
        arguments.input.open(encoding="utf-8") as file,
        parquet.ParquetWriter(arguments.output, SCHEMA) as writer,
    ):
        lines = (line for line in map(str.strip, file) if line)
        while batch := list(islice(lines, arguments.batch)):
            writer.write_table(table(model, batch))


if __name__ == "__main__":
    main()
