"""Reads rows: lines of JSON, or rows of a Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pellucid.errors import PellucidError, WrongValue, one_line, shown

__all__ = ["Row", "Shard", "UnfitTable", "is_table", "key_of", "read"]

LONGEST = 64 << 20  # bytes of a line
MOST_ID = 512  # characters
NAMES = ("custom_id", "id")


class UnfitTable(PellucidError):
    """The columns of a table do not say what is to be done."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row. id: as in the file, or the row's number, from 1 on, if it has none. name: of the id in the file. place: of
    the row, for errors. fields: the others; table: they are columns of a table, some of which may be for other
    programs."""

    id: str | int
    name: str
    place: str
    fields: dict[str, Any]
    table: bool = False

    @property
    def is_call(self) -> bool:
        """Whether it is a line of OpenAI's batch files."""
        return self.fields.get("body") is not None

    def one_of(self, *keys: str) -> str:
        """Which of the keys it has. Raises WrongValue if it is not exactly one; UnfitTable if the columns are why."""
        found = [key for key in keys if self.fields.get(key) is not None]
        if len(found) == 1:
            return found[0]
        expected = f"expected one of the keys {', '.join(keys)}"
        if self.table and (found or not any(key in self.fields for key in keys)):
            has = f"has the columns {' and '.join(found)}" if found else "has none of the columns for this task"
            raise UnfitTable(f"{self.place} {has}: {expected}")
        raise WrongValue("row", f": {expected}")


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of the rows, by their ids: number `index` of `count`, from 0 on."""

    index: int = 0
    count: int = 1

    def has(self, id: str | int) -> bool:
        return self.count == 1 or int.from_bytes(key_of(id)[:8], "big") % self.count == self.index


def key_of(id: str | int) -> bytes:
    """The 16 bytes that represent an id in memory. 7 and "7" are the same id."""
    return hashlib.blake2b(str(id).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def is_table(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq"))


def read(path: str, shard: Shard, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a file that belong to the shard; "-": lines of JSON from standard input. columns: which columns of a
    table to read besides the id; None: all. Raises PellucidError naming the place of a row that is invalid or has the
    id of another, or a column that is missing."""
    table = is_table(path)
    rows = _parquet(path, columns) if table else _lines(path)
    seen: set[bytes] = set()
    for number, (place, fields) in enumerate(rows, 1):
        name, id = _id(fields, number, place)
        if not shard.has(id):
            continue
        key = key_of(id)
        if key in seen:
            raise PellucidError(f"{place}: another row has its {name}, {shown(id)}; expected each once")
        seen.add(key)
        yield Row(id, name, place, fields, table)


def _id(fields: dict[str, Any], number: int, place: str) -> tuple[str, str | int]:
    """Takes the id out of a row."""
    given = [(name, fields.pop(name)) for name in NAMES if name in fields]
    given = [(name, id) for name, id in given if id is not None]
    if not given:
        return "id", number
    if len(given) > 1:
        raise PellucidError(f"{place}: expected one of custom_id and id, not both")
    name, id = given[0]
    if not isinstance(id, (str, int)) or isinstance(id, bool):
        raise PellucidError(f"{place}: {name}: expected a text or an integer, not {type(id).__name__}")
    if len(str(id)) > MOST_ID:
        raise PellucidError(f"{place}: {name} has more than {MOST_ID} characters")
    return name, id


def _lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    shown_path = "standard input" if path == "-" else one_line(path, 80)
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            number = 0
            while raw := file.readline(LONGEST + 1):
                number += 1
                place = f"{shown_path}, line {number}"
                if len(raw) > LONGEST:
                    raise PellucidError(f"{place} has more than {LONGEST >> 20} MiB")
                if raw.strip():
                    yield place, _object(raw, place)
    except OSError as error:
        raise PellucidError(f"{shown_path}: {os.strerror(error.errno or 0).lower()}") from None


def _object(raw: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        why = "nesting too deep" if isinstance(error, RecursionError) else one_line(str(error), 80)
        raise PellucidError(f"{place}: expected an object of JSON: {why}") from None
    if not isinstance(value, dict):
        raise PellucidError(f"{place}: expected an object of JSON, not {type(value).__name__}")
    return value


def _parquet(path: str, columns: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise PellucidError(f"{one_line(path, 80)}: Parquet files need pyarrow: pip install pyarrow") from None
    shown_path, number = one_line(path, 80), 0
    try:
        with open(path, "rb") as file:
            for group in _groups(parquet.ParquetFile(file), columns, shown_path):
                for row in group.to_pylist():
                    number += 1
                    yield f"{shown_path}, row {number}", row
    except OSError as error:  # pyarrow's own errors have no number
        why = os.strerror(error.errno).lower() if error.errno else one_line(str(error), 120)
        raise PellucidError(f"{shown_path}: {why}") from None
    except (ArrowException, ValueError, OverflowError, KeyError) as error:  # dates, zones beyond Python's
        raise PellucidError(f"{shown_path}: expected a Parquet file: {one_line(str(error), 120)}") from None


def _groups(table: Any, columns: Collection[str] | None, path: str) -> Iterator[Any]:
    there = table.schema_arrow.names
    for name in columns or ():
        if name not in there:
            has = one_line(", ".join(there), 200)
            raise PellucidError(f"{path} has no column {one_line(repr(name), 60)}; its columns: {has}")
    wanted = None if columns is None else [name for name in there if name in columns or name in NAMES]
    yield from table.iter_batches(batch_size=1024, columns=wanted)
