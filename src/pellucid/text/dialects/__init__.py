"""Families of models, and how each writes tool calls and reasoning."""

from __future__ import annotations

from .command_r import CommandR, CommandRPlus
from .deepseek import DeepSeek, DeepSeek31
from .dialect import THINK, Dialect, Shape, Thinking, Written, spaced
from .granite import Granite
from .harmony import Harmony
from .hermes import Generic, Hermes, Nemotron
from .kimi import Kimi
from .lfm2 import Lfm2
from .llama import Llama
from .mistral import Mistral, MistralList
from .parser import CallPart, Parser, Said
from .tagged import Glm, QwenCoder, Seed

__all__ = ["ALL", "CallPart", "Dialect", "Parser", "Said", "Shape", "Thinking", "Written", "find", "spaced", "thinking"]

_GENERIC = Generic()  # fits every template
# The more specific ones first: some tags occur in several.
ALL: tuple[Dialect, ...] = (
    Harmony(),
    Kimi(),
    DeepSeek31(),
    DeepSeek(),
    Mistral(),
    MistralList(),
    CommandR(),
    CommandRPlus(),
    Lfm2(),
    Glm(),
    Seed(),
    QwenCoder(),
    Nemotron(),
    Granite(),
    Hermes(),
    Llama(),
    _GENERIC,
)


def find(source: str) -> Dialect:
    """The dialect of a chat template, by marks in its source; the generic one if none is recognised."""
    return next(one for one in ALL if one.fits(source))


def thinking(dialect: Dialect, source: str) -> Thinking | None:
    """The tags of reasoning that a template's models write; None if there are none."""
    if dialect.thinks is not None and (dialect.name == "harmony" or dialect.thinks.opens in source):
        return dialect.thinks
    return THINK if "</think>" in source else None
