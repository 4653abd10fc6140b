"""Tokenizers in place of the model's, which are not supported."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["BaseLlamaTokenizer", "LlamaHFTokenizer", "LlamaTokenizer"]


class BaseLlamaTokenizer:
    """What tokenizers have in common."""


class LlamaHFTokenizer(BaseLlamaTokenizer):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        raise NotImplementedError("LlamaHFTokenizer: a model is run with the tokenizer of its file")

    @classmethod
    def from_pretrained(cls, path: str) -> NoReturn:
        raise NotImplementedError("LlamaHFTokenizer: a model is run with the tokenizer of its file")


class LlamaTokenizer(BaseLlamaTokenizer):
    """The tokenizer of a `Llama`, with text in place of bytes."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        found: list[int] = self._llama.tokenize(text.encode("utf-8", errors="ignore"), add_bos, special)
        return found

    def decode(self, tokens: list[int]) -> str:
        found: bytes = self._llama.detokenize(tokens)
        return found.decode("utf-8", errors="ignore")
