"""Adds a column of answers to a table: python examples/fill_column.py rivers.csv more.csv "Where is the river {name}?"

Tables are CSV or Parquet files. A row in which a value is missing has no answer. Needs polars.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars

from pellucid import Model


def filled(model: Model, frame: polars.DataFrame, question: str, column: str, max_tokens: int) -> polars.DataFrame:
    """The table with the answers. At most 32 rows share passes; each that ends makes room for another."""
    rows = list(frame.iter_rows(named=True))
    whole = [None not in row.values() for row in rows]
    asked = ([{"role": "user", "content": question.format(**row)}] for row, is_whole in zip(rows, whole) if is_whole)
    answers = model.map(asked, max_tokens=max_tokens, temperature=0)
    texts = [next(answers).text if is_whole else None for is_whole in whole]
    return frame.with_columns(polars.Series(column, texts, polars.String))


def main() -> None:
    parser = argparse.ArgumentParser(description="Adds a column of answers to a table.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("question", help="with names of columns in braces")
    parser.add_argument("--column", default="answer", help="name of the new column (default: answer)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=32)
    arguments = parser.parse_args()

    read = polars.read_parquet if arguments.input.suffix == ".parquet" else polars.read_csv
    frame = read(arguments.input)
    with Model.load(arguments.model) as model:
        frame = filled(model, frame, arguments.question, arguments.column, arguments.max_tokens)
    if arguments.output.suffix == ".parquet":
        frame.write_parquet(arguments.output)
    else:
        frame.write_csv(arguments.output)


if __name__ == "__main__":
    main()
