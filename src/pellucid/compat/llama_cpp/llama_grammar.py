"""Grammars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["LlamaGrammar"]


class LlamaGrammar:
    """A grammar in GBNF, or a JSON schema. option, text: what the library calls it, and what it says."""

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
