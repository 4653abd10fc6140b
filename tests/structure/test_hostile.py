"""Grammars that mean harm: each ends with an error or works, and neither crashes, hangs nor takes much memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid.structure import LIMIT, Structure

ROOT = Path(__file__).resolve().parents[2]

# Compiles what it reads and walks through it, in a thread with the least stack that threads have.
PROGRAM = """
import json, sys, threading
from pellucid.errors import GrammarError
from pellucid.structure import Structure
from tests.peak import peak
from tests.structure.walks import grammars, walk

some = grammars()
some.compile(Structure("regex", "a"))
before = peak()

def run():
    try:
        bound = some.compile(Structure(*json.load(sys.stdin)))
        for seed in range(3):
            walk(bound, seed, 60)
        print("works")
    except GrammarError as error:
        print("refused:", error)

threading.stack_size(1 << 19)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(peak() - before)
"""


def nested(open: str, close: str, inner: str = "{}") -> str:
    n = (LIMIT - len(inner)) // (len(open) + len(close))
    return open * n + inner + close * n


def chain(link: Callable[[int], str], last: Callable[[int], str]) -> str:
    """As many definitions, each of which needs the next, as there is room for."""
    parts: list[str] = []
    size = 0
    while size + len(link(len(parts))) < LIMIT - 100:
        parts.append(link(len(parts)))
        size += len(parts[-1])
    return "".join([*parts, last(len(parts))])


def defs(link: Callable[[str], str]) -> str:
    parts = chain(lambda i: f'"a{i}":{link(f"a{i + 1}")},', lambda i: f'"a{i}":{{"type":"string"}}')
    return f'{{"$ref":"#/$defs/a0","$defs":{{{parts}}}}}'


def ref(name: str) -> str:
    return f'{{"$ref":"#/$defs/{name}"}}'


DEEP = "(" * 28
CASES: dict[str, tuple[str, str]] = {
    "rules in a row": ("grammar", chain(lambda i: f"r{i}: r{i + 1}\n", lambda i: f'r{i}: "a"\nstart: r0')),
    "rules, each nested": (
        "grammar",
        chain(lambda i: f"r{i}: {DEEP}r{i + 1}{')' * 28}\n", lambda i: f'r{i}: "a"\nstart: r0'),
    ),
    "terminals in a row": ("grammar", chain(lambda i: f"R{i}: R{i + 1}\n", lambda i: f'R{i}: "a"\nstart: R0')),
    "terminals, each nested": (
        "grammar",
        chain(lambda i: f'R{i}: {DEEP}"x"|R{i + 1}{")" * 28}\n', lambda i: f'R{i}: "a"\nstart: R0'),
    ),
    "parentheses": ("grammar", "start: " + nested("(", ")", '"a"')),
    "parentheses in GBNF": ("grammar", "root ::= " + nested("(", ")", '"a"')),
    "rules of GBNF": ("grammar", chain(lambda i: f"r{i} ::= r{i + 1}\n", lambda i: f'r{i} ::= "a"\nroot ::= r0\n')),
    "sets of GBNF that do not end": ("grammar", "root ::= " + "[" * (LIMIT - 20)),
    "escapes of GBNF that do not end": ("grammar", 'root ::= "' + '\\"' * (LIMIT // 2 - 20)),
    "texts of GBNF": ("grammar", "root ::= " + '"a" ' * (LIMIT // 4 - 20)),
    "sets of GBNF": ("grammar", "root ::= " + "[a] " * (LIMIT // 4 - 20)),
    "lines before GBNF": ("grammar", "\n" * (LIMIT - 20) + 'root ::= "a"'),
    "lines of Lark": ("grammar", "\n" * (LIMIT - 20) + 'start: "a"'),
    "a rule of itself": ("grammar", "start: start start | start | "),
    "left and right": ("grammar", 'start: s\ns: s s | s s s | "a" | '),
    "options": ("grammar", "start: " + "a? " * 5000 + '\na: "x" | "y"'),
    "repetitions of repetitions": ("grammar", 'start: (((("x"|"y"){0,1000}){0,1000}){0,1000}){0,1000}'),
    "a million": ("grammar", 'start: a{1000000}\na: "x" | "y" a'),
    "intersections": ("grammar", "start: A\nA: /(.*a.{30})/ & /(.*b.{30})/ & ~/(.*c.{20})/"),
    "a schema within": ("grammar", 'start: %json {"allOf": [{"multipleOf": 10007}, {"multipleOf": 10009}]}'),
    "groups": ("regex", nested("(", ")", "a")),
    "stars": ("regex", "a" + "*" * (LIMIT - 1)),
    "counts": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "the classic": ("regex", "(a?){5000}a{5000}"),
    "states": ("regex", "(.*a.{20}){1,5}"),
    "classes": ("regex", r"(\p{L}{1,1000}\s?){1,1000}"),
    "alternatives": ("regex", "|".join("x" * i for i in range(1, 350))),
    "items": ("schema", nested('{"items":', "}")),
    "any of": ("schema", nested('{"anyOf":[', "]}")),
    "references": ("schema", defs(ref)),
    "references in items": ("schema", defs(lambda name: f'{{"items":{ref(name)}}}')),
    "references in all of": ("schema", defs(lambda name: f'{{"allOf":[{ref(name)}]}}')),
    "references twice": ("schema", defs(lambda name: f'{{"allOf":[{ref(name)},{ref(name)}]}}')),
    "references in deep items": ("schema", defs(lambda name: '{"items":' * 90 + ref(name) + "}" * 90)),
    "a reference to itself": ("schema", '{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"$ref":"#/$defs/a"}]}}}'),
    "multiples": ("schema", '{"type":"integer","allOf":[{"multipleOf":9973},{"multipleOf":9967}]}'),
    "multiples with fewer digits": (
        "schema",
        json.dumps({"type": "number", "allOf": [{"multipleOf": one} for one in (0.0375, 0.00625, 0.128)] * 600}),
    ),
    "a long multiple": ("schema", '{"type":"number","multipleOf":1.23456789012345e-300}'),
    "long strings": ("schema", '{"type":"string","minLength":100000000}'),
    "long arrays": ("schema", '{"items":{"type":"array","minItems":100000},"type":"array","minItems":100000}'),
    "many values": ("schema", json.dumps({"enum": [f"v{i}" for i in range(6000)]})),
    "a long value": ("schema", json.dumps({"const": "x" * (LIMIT - 100)})),
    "many properties": ("schema", json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(2000)}})),
    "products": (
        "schema",
        json.dumps({"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for i in range(6)]} for j in range(12)]}),
    ),
    "patterns": (
        "schema",
        json.dumps({"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(20, 28)]}),
    ),
    "a pattern and a length": ("schema", '{"type":"string","pattern":"^(a|b)*a(a|b){30}$","minLength":3000}'),
    "many texts": ("choice", json.dumps([f"choice {i}" for i in range(3500)])),
}


def attempt(structure: Structure) -> list[str]:
    program = [sys.executable, "-c", PROGRAM]
    asked = json.dumps(structure)
    done = subprocess.run(program, input=asked, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr[-300:])
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", CASES)
def test_is_harmless(name: str) -> None:
    kind, text = CASES[name]
    assert len(text.encode()) <= LIMIT + 200, "more than would be taken"
    said, grown = attempt(Structure(kind, text))  # type: ignore[arg-type]
    assert said == "works" or said.startswith("refused: " + kind)
    assert int(grown) < 400_000, f"{grown} KB"


def test_ended_while_a_grammar_is_compiled() -> None:
    """Ctrl-C ends the program after llguidance, which crashes where it is still at work after the interpreter."""
    code = """
import os, signal, time
from pellucid.structure import Structure
from pellucid.text import grammar
from tests.structure.walks import grammars
def compiled(grammars, structure):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    os.write(2, b"compiled\\n")
some, grammar.Grammar = grammars(), compiled
some.compile(Structure("regex", "a"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == -signal.SIGINT and done.stderr.endswith("\nKeyboardInterrupt\ncompiled\n"), done.stderr
