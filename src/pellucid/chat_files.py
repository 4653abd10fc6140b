"""What a model's files say about conversations: names of special tokens, and chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["ForChats", "named_templates", "named_tokens"]

_USUAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_GROUPS = ("model_specific_special_tokens", "extra_special_tokens")  # tables of further names


class ForChats(NamedTuple):
    """What a model's files give for chats besides the vocabulary and the usual template.

    names: spellings of special tokens by the names that templates use; None: there is no such token. tool_template: the
    template for conversations with tools, if they have their own.
    """

    names: Mapping[str, str | None] = {}
    tool_template: str | None = None


def named_tokens(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Spellings of special tokens by the names that templates use; None: the folder says that there is none.
    config: tokenizer_config.json, with what special_tokens_map.json adds to it."""
    found: dict[str, str | None] = {}
    for name, value in config.items():
        if name.endswith("_token"):
            spelling = _spelled(value)
            if spelling is not None or (value is None and name in _USUAL):
                found[name] = spelling
    for group in _GROUPS:
        table = config.get(group)
        for name, value in table.items() if isinstance(table, dict) else ():
            if (spelling := _spelled(value)) is not None:
                found[name] = spelling
    return found


def named_templates(value: Any) -> dict[str, str]:
    """Templates by name, from a configuration's `chat_template`: a text, or a table or list of several."""
    if isinstance(value, list):
        value = {one["name"]: one.get("template") for one in value if isinstance(one, dict) and _named(one)}
    given = value if isinstance(value, dict) else {"default": value}
    return {name: source for name, source in given.items() if isinstance(source, str)}


def _named(template: dict[str, Any]) -> bool:
    return isinstance(template.get("name"), str)


def _spelled(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
