"""What a text must match, as given by the options of a generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pellucid import checks
from pellucid.errors import GrammarError, WrongType, WrongValue, one_line, shown

__all__ = [
    "LIMIT",
    "NAMES",
    "Structure",
    "check_choice",
    "check_grammar",
    "check_one",
    "check_regex",
    "check_schema",
    "structure_of",
]

LIMIT = 1 << 16  # bytes of a schema, an expression, a grammar, or the JSON of a choice's texts
MOST_CHOICES = 10_000
NAMES = ("schema", "regex", "choice", "grammar")


class Structure(NamedTuple):
    """What a text must match.

    ``text``: a JSON schema; a regular expression; a JSON list of texts; a grammar in Lark's or GBNF's syntax.
    ``strict``: schema keywords that cannot be enforced are refused; otherwise ignored. ``calls``: a grammar of tool
    calls, in Lark's syntax, which the text may match instead; it refers to the structure described here as @content;
    "": none.
    """

    kind: Literal["schema", "regex", "choice", "grammar"]
    text: str
    strict: bool = True
    calls: str = ""


def _checked(name: str, text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise GrammarError("a lone surrogate, which no text has", place=name) from error
    if size > LIMIT:
        raise GrammarError(f"{size} bytes; expected at most {LIMIT}", place=name)
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json(name: str, value: Any) -> str:
    """A schema as JSON text."""
    try:
        return _checked(name, json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    except GrammarError:
        raise
    except RecursionError:
        raise GrammarError("nested too deeply", place=name) from None
    except (TypeError, ValueError) as error:
        raise GrammarError(f"not JSON: {error}", place=name) from None


def check_schema(name: str, value: Any) -> Any:
    """A JSON schema: an object, true or false, as Python values or JSON text; or an object that has a schema: a
    pydantic model class or a TypeAdapter. -> a copy, or that object. Raises WrongType, GrammarError."""
    if value is None or _maker(value) is not None:
        if value is not None:
            schema_text(name, value)
        return value
    if isinstance(value, str):
        try:
            value = json.loads(_checked(name, value), parse_constant=_no_constant)
        except GrammarError:
            raise
        except RecursionError:
            raise GrammarError("nested too deeply", place=name) from None
        except ValueError as error:
            raise GrammarError(f"not JSON: {error}", place=name) from None
    if isinstance(value, (bool, Mapping)):
        return json.loads(_json(name, dict(value) if isinstance(value, Mapping) else value))
    expected = "a JSON schema (a dictionary, or JSON text) or a pydantic model class"
    raise WrongType(name, f" must be {expected}, not {type(value).__name__}")


def _maker(value: Any) -> Any:
    """The method of a model class or TypeAdapter that makes its schema; None for anything else."""
    if isinstance(value, (str, bytes, Mapping)):
        return None
    made = getattr(value, "model_json_schema", None) if isinstance(value, type) else getattr(value, "json_schema", None)
    return made if callable(made) else None


def schema_text(name: str, value: Any) -> str:
    """A checked schema as JSON text."""
    maker = _maker(value)
    if maker is None:
        return _json(name, value)
    try:
        made = maker()
    except Exception as error:  # including what the model's own code raises
        raise GrammarError(f"{shown(value)} has no JSON schema: {one_line(str(error), 200)}", place=name) from error
    return _json(name, made)


def check_regex(name: str, value: Any) -> str | None:
    """A regular expression. Raises WrongType, GrammarError."""
    return None if value is None else _checked(name, checks.string(name, value, "a regular expression"))


def check_choice(name: str, value: Any) -> tuple[str, ...] | None:
    """Texts. Raises WrongType, WrongValue, GrammarError."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        raise WrongType(name, f" must be several texts, not {type(value).__name__}")
    texts = []
    for at, text in checks.items(name, value, "a sequence of texts"):
        texts.append(checks.string(name, text, at=at))
        if not texts[-1]:
            raise WrongValue(name, f"{at}='': expected at least one character")
        if len(texts) > MOST_CHOICES:
            raise WrongValue(name, f": expected at most {MOST_CHOICES} texts")
    if not texts:
        raise WrongValue(name, " is empty: expected at least one text")
    _json(name, texts)
    return tuple(texts)


def check_grammar(name: str, value: Any) -> str | None:
    """A grammar in Lark's or GBNF's syntax. Raises WrongType, GrammarError."""
    return None if value is None else _checked(name, checks.string(name, value, "a grammar"))


def check_one(*values: Any) -> None:
    """Raises WrongValue if several of the options `NAMES` are given."""
    given = [name for name, value in zip(NAMES, values, strict=True) if value is not None]
    if len(given) > 1:
        raise WrongValue(given[1], f" cannot be combined with {given[0]}: expected one of {', '.join(NAMES)}")


def structure_of(schema: Any, regex: Any, choice: Any, grammar: Any, strict: bool) -> Structure | None:
    """The structure that validated options specify."""
    if schema is not None:
        return Structure("schema", schema_text("schema", schema), strict)
    if regex is not None:
        return Structure("regex", regex)
    if choice is not None:
        return Structure("choice", json.dumps(choice, ensure_ascii=False))
    return None if grammar is None else Structure("grammar", grammar)
