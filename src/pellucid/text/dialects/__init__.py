"""Families of models, and how each writes tool calls and reasoning."""

from __future__ import annotations

from pellucid.text.dialects.command_r import CommandR, CommandRPlus
from pellucid.text.dialects.deepseek import DeepSeek, DeepSeek31
from pellucid.text.dialects.dialect import THINK, Dialect, Shape, Thinking, Written, spaced
from pellucid.text.dialects.granite import Granite
from pellucid.text.dialects.harmony import Harmony
from pellucid.text.dialects.hermes import Generic, Hermes, Nemotron
from pellucid.text.dialects.kimi import Kimi
from pellucid.text.dialects.lfm2 import Lfm2
from pellucid.text.dialects.llama import Llama
from pellucid.text.dialects.mistral import Mistral, MistralList
from pellucid.text.dialects.parser import CallPart, Parser, Said
from pellucid.text.dialects.tagged import Glm, QwenCoder, Seed

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
