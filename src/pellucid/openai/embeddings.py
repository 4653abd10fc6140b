"""Embeddings: the fields of a request, and the object of an answer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.fields import Fields
from pellucid.openai.limits import Rules
from pellucid.openai.refusal import WITHOUT_EFFECT, check_known, refused

__all__ = ["Embed", "embed_call", "embedded", "rest", "take_model"]

# Fields of other servers that would change the numbers.
REFUSED = (
    "embedding_types",
    "input_type",
    "late_chunking",
    "max_chunks_per_doc",
    "max_tokens_per_doc",
    "max_tokens_per_query",
    "rank_fields",
    "relevant_spans",
    "task",
    "truncate_prompt_tokens",
)


@dataclass(slots=True)
class Embed:
    """A parsed request. arguments: texts and options of `Model.embed`, in its order. base64: whether the numbers are in
    this form. ignored: fields that had no effect."""

    model: str | None
    arguments: tuple[Any, ...]
    base64: bool
    ignored: list[str] = field(default_factory=list)


def embed_call(body: dict[str, Any], rules: Rules) -> Embed:
    """A request for embeddings. Raises WrongValue or WrongType naming the field."""
    fields = Fields(body, rules.limits)
    model = take_model(fields)
    texts = fields.take("input")
    if not isinstance(texts, (str, list)):
        raise WrongType("input", ": expected a text, a list of token ids, or a list of these")
    if isinstance(texts, list):
        _check_inputs(texts, rules.limits.inputs)
    form = checks.choice("encoding_format", fields.take("encoding_format", "float"), ("float", "base64"))
    options = [fields.take(name) for name in ("pooling", "normalize", "dimensions", "instruction")]
    return Embed(model, (texts, *options), form == "base64", rest(fields, rules))


def _check_inputs(texts: list[Any], most: int) -> None:
    if not texts:
        raise WrongValue("input", " is empty: expected at least one text")
    if all(type(id) is int for id in texts):
        return  # one text, whose ids the library checks
    if len(texts) > most:
        raise WrongValue("input", f" has {len(texts)} texts: expected at most {most}")
    for i, text in enumerate(texts):
        if not isinstance(text, (str, list)):
            raise WrongType("input", f"[{i}]: expected a text or a list of token ids, not {type(text).__name__}")
        if text == []:
            raise WrongValue("input", f"[{i}] is empty: expected at least one token")


def embedded(in_base64: bool, rows: Any, model: str, tokens: int) -> dict[str, Any]:
    """OpenAI's object. in_base64: numbers as little-endian float32 in base64."""
    values = [base64.b64encode(row.astype("<f4").tobytes()).decode() if in_base64 else row.tolist() for row in rows]
    data = [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def take_model(fields: Fields) -> str | None:
    model = fields.take("model")
    return None if model is None else checks.string("model", model)


def rest(fields: Fields, rules: Rules) -> list[str]:
    """The remaining fields, which have no effect. Raises WrongValue for those that would have one."""
    for name in REFUSED:
        if name in fields.rest:
            raise refused(name, " is not supported", "unsupported_field")
    found = sorted(fields.rest)
    check_known(found, rules, WITHOUT_EFFECT)
    return found
