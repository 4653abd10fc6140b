"""Grammars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["JSON_GBNF", "LlamaGrammar", "json_schema_to_gbnf"]

# An object, as on json.org; little white space, so that a text cannot go on with it for ever.
JSON_GBNF = r"""
root ::= object
object ::= "{" space (member ("," space member)*)? "}" space
member ::= string ":" space value
array ::= "[" space (value ("," space value)*)? "]" space
value ::= object | array | string | number | ("true" | "false" | "null") space
string ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" space
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? space
space ::= (" " | "\n" [ \t]{0,20})?
"""


def json_schema_to_gbnf(schema: str, prop_order: list[str] | None = None) -> NoReturn:
    raise NotImplementedError("json_schema_to_gbnf is not supported: see LlamaGrammar.from_json_schema")


class LlamaGrammar:
    """A grammar in GBNF, or a JSON schema. option: the library's name of it; text: its source."""

    def __init__(self, *, option: str, text: str) -> None:
        self.option = option
        self.text = text

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        return cls(option="grammar", text=grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> LlamaGrammar:
        return cls(option="grammar", text=Path(file).read_text(encoding="utf-8"))

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        return cls(option="schema", text=json_schema)

    def options(self) -> dict[str, Any]:
        """The library's options."""
        return {self.option: self.text}
