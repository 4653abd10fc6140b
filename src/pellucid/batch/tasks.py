"""What is done with a row, and the line with its result. A line depends only on its row, the model and the options: not
on the time, the machine or other rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.batch.source import Row, UnfitTable
from pellucid.errors import WrongType, WrongValue, one_line
from pellucid.model import Model
from pellucid.openai.fields import Call, chat_call, completion_call
from pellucid.openai.limits import Limits, Rules
from pellucid.openai.parts import part_of
from pellucid.openai.shapes import ChatObjects, CompletionObjects, Objects, usage
from pellucid.options import CHAT_DEFAULTS, GENERATE_DEFAULTS
from pellucid.results import Completion
from pellucid.sampling import MOST_SEED
from pellucid.schedule.many import of_item, seed_of
from pellucid.server.failures import Failure, failure
from pellucid.server.identity import fingerprint

__all__ = ["TASKS", "Generation", "text_of"]

TASKS = ("generate", "chat", "score", "embed")
PROMPTS = ("prompt", "prompt_ids", "messages", "text")
URLS = {"/v1/chat/completions": True, "/v1/completions": False}
_MOST = 2**31 - 1


class Generation:
    """The tasks "generate" and "chat". seed: of the run, from which each row's is derived; None: rows have none."""

    def __init__(self, model: Model, task: str, seed: int | None) -> None:
        self._model, self._chats, self._seed = model, task == "chat", seed
        limits = Limits(n=128, prompts=1, stop=_MOST, stop_characters=_MOST, logit_bias=_MOST)
        self._rules = Rules(limits=limits)
        self._fingerprint = ""

    def work(self, row: Row) -> tuple[list[dict[str, Any]], Call | None]:
        """Items for `Model.map`: one for each of a row's choices. Raises the errors of the row."""
        way = row.one_of(*PROMPTS, "body")
        return self._request(row) if way == "body" else self._plain(row, way)

    def _plain(self, row: Row, way: str) -> tuple[list[dict[str, Any]], None]:
        fields = {k: v for k, v in row.fields.items() if v is not None}
        name, content = "prompt" if way == "text" else way, fields.pop(way)
        if self._chats and name == "prompt":
            if not isinstance(content, (str, list)):  # a list of a message's parts
                raise WrongType(way, f": expected a text, not {type(content).__name__}")
            name, content = "messages", [{"role": "user", "content": content}]
        elif name != "messages":
            _check_text(way, content)
        if row.table:
            known = CHAT_DEFAULTS if name == "messages" else GENERATE_DEFAULTS
            fields = {k: v for k, v in fields.items() if k in known}
        fields.setdefault("seed", self._own_seed(row))
        if "cancel" in fields:
            raise WrongValue("cancel", ": belongs to the whole run")
        if isinstance(bias := fields.get("logit_bias"), dict):  # keys of JSON are texts
            fields["logit_bias"] = {_id_of(key): value for key, value in bias.items() if value is not None}
        return [{name: content, **fields}], None

    def _request(self, row: Row) -> tuple[list[dict[str, Any]], Call]:
        """A line of OpenAI's batch files."""
        body, url = row.fields["body"], row.fields.get("url") or "/v1/chat/completions"
        if not isinstance(body, dict):
            raise WrongValue("body", ": expected an object")
        if url not in URLS:
            raise WrongValue("url", f"={one_line(repr(url), 60)}: expected {' or '.join(URLS)}")
        call = (chat_call if URLS[url] else completion_call)(dict(body), self._rules)
        if call.echo:
            raise WrongValue("echo", ": not supported here; the task score gives a prompt's log probabilities")
        name, content = ("messages", call.messages) if URLS[url] else ("prompt", call.prompts[0])
        if call.options["max_tokens"] is None and body.get("n_predict") is None:
            del call.options["max_tokens"]  # the command's applies
        seed = call.options.pop("seed", None)
        if seed is None:
            seed = self._own_seed(row)
        items = []
        for choice in range(call.n):
            own = {} if seed is None else {"seed": (seed + choice) % (MOST_SEED + 1)}
            items.append({name: content, **call.options, **call.template, **own})
        return items, call

    def _own_seed(self, row: Row) -> int | None:
        return None if self._seed is None else seed_of(self._seed, row.id)

    def line(self, row: Row, call: Call | None, found: list[Completion]) -> dict[str, Any]:
        if call is not None:
            return {row.name: row.id, **self._answer(row, call, found)}
        done = found[0]
        line: dict[str, Any] = {
            row.name: row.id,
            "text": done.text,
            "finish_reason": done.finish_reason,
            "prompt_tokens": done.prompt_tokens,
            "new_tokens": len(done.ids),
            "seed": done.seed,
        }
        if done.reasoning:
            line["reasoning"] = done.reasoning
        if done.tool_calls:
            line["tool_calls"] = [one.to_dict() for one in done.tool_calls]
        if done.logprobs:
            line["logprobs"] = [token._asdict() for token in done.logprobs]
        return line

    def _answer(self, row: Row, call: Call, found: list[Completion]) -> dict[str, Any]:
        """The answer as in OpenAI's batch files. `created` is 0, since a line must not depend on the time."""
        shape = self._shape(row, call)
        parts = [part_of(done) for done in found]
        new = sum(len(done.ids) for done in found)
        used = usage(found[0].prompt_tokens, new, 0, sum(done.reasoning_tokens for done in found))
        body = {**shape.answer(parts, used), "created": 0}
        return {"response": {"status_code": 200, "request_id": str(row.id), "body": body}, "error": None}

    def _shape(self, row: Row, call: Call) -> Objects:
        info = self._model.info()
        if not self._fingerprint:
            self._fingerprint = fingerprint(info)
        kind = ChatObjects if call.messages is not None else CompletionObjects
        called = call.model or info.name or "default"
        return kind(self._model.core, str(row.id), called, self._fingerprint, call.logprobs, call.token_ids)


def _id_of(key: Any) -> Any:
    """A token id from a text of digits; any other key is returned as it is, for the error."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11 else key


def text_of(row: Row) -> str | list[int]:
    """The text, or ids, of the tasks "score" and "embed". Raises WrongType or WrongValue naming the key."""
    key = row.one_of("text", "prompt", "prompt_ids", "input")
    found: str | list[int] = row.fields[key]
    _check_text(key, found)
    return found


def _check_text(key: str, value: Any) -> None:
    """Raises if it is neither a text nor a list of integers; prompt_ids may not be a text. The model checks which token
    ids there are."""
    if key != "prompt_ids" and isinstance(value, str):
        return
    if not isinstance(value, list):
        expected = "a list of token ids" if key == "prompt_ids" else "a text or a list of token ids"
        raise WrongType(key, f": expected {expected}, not {type(value).__name__}")
    for i, id in enumerate(value):
        if not isinstance(id, int) or isinstance(id, bool):
            raise WrongType(key, f"[{i}]: expected a token id, not {type(id).__name__}")
    if not value:
        raise WrongValue(key, " is empty: expected at least one token")


def score_line(row: Row, score: Any) -> dict[str, Any]:
    perplexity = score.perplexity
    return {
        row.name: row.id,
        "logprob": score.total,
        "tokens": len(score.tokens),
        "perplexity": perplexity if math.isfinite(perplexity) else None,
    }


def embed_line(row: Row, embedding: Any) -> dict[str, Any]:
    return {row.name: row.id, "embedding": embedding.tolist()}


def error_line(row: Row, call: bool, error: Exception, names: Mapping[str, str]) -> dict[str, Any]:
    """The line of a row that failed. call: whether the row is one of OpenAI's batch files. names: the row's names of
    options, by Pellucid's."""
    told = failure(error, str(row.id), dict(names))
    if call:
        body = {"error": {"message": told.message, "type": "invalid_request_error", "param": told.param}}
        answer = {"status_code": told.status, "request_id": str(row.id), "body": body}
        return {row.name: row.id, "response": answer, "error": None}
    return {row.name: row.id, "error": {"type": type(error).__name__, "message": told.message}}


def is_the_rows(error: Exception) -> bool:
    """Whether an error is that of a row, and not one that no row can change."""
    return isinstance(error, Failure) or (of_item(error) and not isinstance(error, UnfitTable))
