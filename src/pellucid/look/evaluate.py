"""The requests of lm-evaluation-harness. The class that it calls is in harness.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pellucid.core import Core
from pellucid.errors import ContextFullError, shown
from pellucid.generation import prefill
from pellucid.look.score import score_ids, score_parts
from pellucid.schedule.start import stream
from pellucid.schedule.turns import Turns

__all__ = ["generate_until", "loglikelihood", "rolling"]

MAX_NEW = 256  # default number of new tokens for tasks that specify none


def loglikelihood(core: Core, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """(context, continuation) -> (log probability of the continuation, whether greedy decoding produces it).

    A context that is too long is truncated at its beginning, with a warning, as in the harness's own models. Raises
    ContextFullError if the continuation alone is too long."""
    parts = []
    for context, continuation in pairs:
        ids, first = _encode(core, context, continuation)
        room = core.context_length + 1  # the last token needs no room, since nothing follows it
        if len(ids) - first >= room:
            raise ContextFullError("a continuation is too long", needed=len(ids) - first, available=room - 1)
        cut = max(len(ids) - room, 0)
        if cut:
            _warn(cut)
        parts.append((ids[cut:], first - cut))
    out = []
    for (ids, first), found in zip(parts, _score(core, parts), strict=True):
        greedy = all(best[0][0] == id for id, (_, best) in zip(ids[first:], found, strict=True))
        out.append((sum(logprob for logprob, _ in found), greedy))
    return out


def _score(core: Core, parts: list[tuple[list[int], int]]) -> Iterator[Any]:
    """Scores parts in order. Adjacent ones with the same context (the choices of a question) compute it once."""
    alone: list[tuple[list[int], int]] = []
    for context, group in groupby(parts, key=lambda part: part[0][: part[1] - 1]):
        same = list(group)
        if len(same) == 1 or not context:
            alone += same
            continue
        yield from score_ids(core, alone, top=1)
        alone = []
        ends = [(ids[first - 1 :], 1) for ids, first in same]
        with Turns(core, "score", [len(context), *(len(ids) for ids, _ in ends)]) as turns:
            begun = turns.sequence()
            prefill(turns, begun, context, turns.max_rows, None, turns.rows)
            found = score_parts(turns, ends, top=1, begun=begun)
        yield from found
    yield from score_ids(core, alone, top=1)


def _encode(core: Core, context: str, continuation: str) -> tuple[list[int], int]:
    """(ids of both together, index at which the continuation begins). As in the harness, the index is the number of ids
    of the context alone; spaces at its end belong to the continuation. If both together have no more tokens than the
    context alone, the continuation is encoded separately."""
    if not context:
        ids = [_prefix(core), *core.tokenize(continuation, add_special=False)]
        return ids, 1
    stem = context.rstrip()
    if not stem:
        return [_prefix(core), *core.tokenize(context + continuation, add_special=False)], 1
    before = core.tokenize(stem)
    ids = core.tokenize(context + continuation)
    if len(ids) <= len(before):
        ids = before + core.tokenize(context[len(stem) :] + continuation, add_special=False)
    return ids, len(before)


def _prefix(core: Core) -> int:
    """The token that precedes a text: BOS, else the end-of-sequence token, as if another text had just ended."""
    tokenizer = core.need_tokenizer()
    for id in (tokenizer.bos, tokenizer.eos):
        if id is not None:
            return int(id)
    raise ValueError("the model has no BOS or EOS token to start an empty context from")


def rolling(core: Core, texts: Sequence[str]) -> list[float]:
    """Log probability of whole texts. Texts longer than the context are split into parts that fill it: each token is
    scored once, each part begins with the last token of the previous one, except that the last part has a full
    context."""
    parts: list[tuple[list[int], int]] = []
    counts = []
    for text in texts:
        ids = [_prefix(core), *core.tokenize(text, add_special=False)]
        room, before = core.context_length, len(parts)
        for start in range(1, len(ids), room):
            end = min(start + room, len(ids))
            low = max(end - room - 1, 0)
            parts.append((ids[low:end], start - low))
        counts.append(len(parts) - before)
    found = iter(score_ids(core, parts))
    return [sum(logprob for _ in range(n) for logprob, _ in next(found)) for n in counts]


def generate_until(
    core: Core, requests: Sequence[tuple[str, Mapping[str, Any]]], *, together: int = 8, max_new: int = MAX_NEW
) -> list[str]:
    """(context, options of the task) -> the text up to a stop string. Adjacent requests with the same options run in
    the same passes. Raises ContextFullError, and ValueError for an unknown option."""
    out: list[str] = []
    at = 0
    while at < len(requests):
        wanted = dict(requests[at][1])
        end = at + 1
        while end < len(requests) and end - at < together and dict(requests[end][1]) == wanted:
            end += 1
        options = _options(wanted, max_new)
        prompts = []
        for context, _ in requests[at:end]:
            ids = core.tokenize(context) or [_prefix(core)]
            room = core.context_length - options["max_tokens"]
            if room < 1:
                raise ContextFullError(
                    "max_gen_toks leaves no room for a context",
                    needed=options["max_tokens"] + 1,
                    available=core.context_length,
                )
            if len(ids) > room:
                _warn(len(ids) - room)
            prompts.append(ids[-room:])
        out += [done.text for done in stream(core, prompts, options).result()]
        at = end
    return out


def _options(task: dict[str, Any], max_new: int) -> dict[str, Any]:
    """A task's generation options converted to Pellucid's; greedy unless the task samples."""
    task = dict(task)
    until = task.pop("until", None) or ()
    temperature = task.pop("temperature", None)
    sample = task.pop("do_sample", None)
    if sample is None:
        sample = bool(temperature)
    options: dict[str, Any] = {
        "stop": (until,) if isinstance(until, str) else tuple(text for text in until if text),
        "temperature": (1.0 if temperature is None else float(temperature)) if sample else 0.0,
        "top_k": int(task.pop("top_k", None) or 0),
        "top_p": float(task.pop("top_p", None) or 1.0),
        "min_p": float(task.pop("min_p", None) or 0.0),
        "seed": task.pop("seed", None),
    }
    lengths = [task.pop(name, None) for name in ("max_gen_toks", "max_new_tokens", "max_tokens")]
    options["max_tokens"] = int(next((n for n in lengths if n is not None), max_new))
    if task:
        raise ValueError(f"generation option {shown(next(iter(task)))} is not supported")
    return options


def _warn(n: int) -> None:
    warnings.warn(f"a context is too long: its first {n} tokens are left out", stacklevel=3)
