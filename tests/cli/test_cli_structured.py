"""`pellucid generate` and `chat` with a schema, an expression, texts to choose from, or a grammar."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, error_line

AGE = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"age": AGE},
    "required": ["age"],
    "additionalProperties": False,
}


def test_schemas(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(SCHEMA))
    done = run("generate", "A person: ", "--schema", str(file), "--seed", "1")
    assert done.returncode == 0 and 0 <= json.loads(done.stdout)["age"] <= 99, done.stderr
    said = json.loads(run("generate", "A person: ", "--schema", str(file), "--seed", "1", "--json").stdout)
    assert said["text"].encode() == done.stdout and said["parsed"] == json.loads(done.stdout)
    done = run("chat", "How old is he?", "--schema", str(file), "--seed", "1")
    assert done.returncode == 0 and list(json.loads(done.stdout)) == ["age"]


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--regex", "[a-c]{4}"), "[a-c]{4}"),
        (("--choice", "yes", "--choice", "no"), "yes|no"),
        (("--grammar", "FILE"), "<[a-z]>"),
    ],
)
def test_others(run: Run, tmp_path: Path, arguments: tuple[str, ...], pattern: str) -> None:
    file = tmp_path / "grammar.gbnf"
    file.write_text('root ::= "<" [a-z] ">"\n')
    given = [str(file) if word == "FILE" else word for word in arguments]
    done = run("generate", "Answer: ", *given, "--seed", "1")
    assert done.returncode == 0 and re.fullmatch(pattern, done.stdout.decode()), done.stderr


def test_errors(call: Run, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    for text, words in (("{", "schema: not JSON"), ("3", "--schema"), ('{"enum": ["' + "x" * 70_000 + '"]}', "65536")):
        file.write_text(text)
        done = call("generate", "a", "--schema", str(file))
        assert done.returncode in (1, 2) and words in error_line(done)
    file.write_bytes(b"\xff")
    assert "not UTF-8 at byte 0" in error_line(call("chat", "a", "--schema", str(file)))
    assert "not found" in error_line(call("generate", "a", "--grammar", str(tmp_path / "none"))).lower()
    file.write_text('{"not": {}}')
    both = call("generate", "a", "--schema", str(file), "--regex", "a")
    assert both.returncode == 2 and "--regex cannot be combined with --schema" in error_line(both)
    refused = run("generate", "a", "--schema", str(file))
    assert refused.returncode == 1 and 'schema.not: the keyword "not" cannot be enforced' in error_line(refused)
    assert run("generate", "a", "--schema", str(file), "--no-strict", "-n", "2").returncode == 0
