"""A plugin for the command `llm` and its library: models "pellucid/NAME" that run in this process.

`llm` finds it once both packages are installed. `llm pellucid add ALIAS MODEL` adds a file, folder or name. Pellucid's
errors are raised as `llm.ModelError`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import click
    import llm
    from llm.parts import ReasoningPart, StreamEvent, TextPart, ToolCallPart, ToolResultPart
    from pydantic import Field
except ImportError as error:
    raise ImportError(f"pellucid.adapters.llm needs the extra llm: {error}") from None

if TYPE_CHECKING:  # `llm` imports its plugins for every command; what runs models is imported when one runs
    from pellucid import Model
    from pellucid.adapters.answers import Answer

__all__ = ["PellucidAsyncChat", "PellucidChat", "PellucidEmbedding"]

_held: dict[str, Model] = {}  # a conversation's model stays loaded


class _Error(llm.ModelError, click.ClickException):
    """An error of both classes: the library's users expect the one, and the other is printed as one line, without a
    traceback, by every command."""


@contextmanager
def _as_lines() -> Iterator[None]:
    """Raises Pellucid's errors as an error of `llm`."""
    from pellucid.errors import ArgumentError, PellucidError

    try:
        yield
    except (PellucidError, ArgumentError) as error:
        raise _Error(str(error)) from error


class Source:
    """Where a model comes from. template: a chat template, in Jinja, of its own. pooling: how it makes embeddings."""

    def __init__(self, name: str, model: str, template: str | None = None, pooling: str | None = None) -> None:
        self.id = f"pellucid/{name}"
        self._model = model
        self.template = template
        self.pooling = pooling

    def open(self) -> Model:
        """The model, loaded on first use. Raises what `Model.load` raises."""
        from pellucid.adapters.shared import loaded

        found = loaded(self._model, {})
        _held[self._model] = found
        return found


# ---- what `llm` asks for ------------------------------------------------------------------------------------------


@llm.hookimpl
def register_models(register: Any) -> None:
    for source in _sources():
        register(PellucidChat(source), PellucidAsyncChat(source))


@llm.hookimpl
def register_embedding_models(register: Any) -> None:
    for source in _sources():
        register(PellucidEmbedding(source))


@llm.hookimpl
def register_commands(cli: Any) -> None:
    @cli.group(name="pellucid")
    def group() -> None:
        "Models that run in this process"

    @group.command(name="add")
    @click.argument("alias")
    @click.argument("model")
    @click.option("--template", type=click.Path(exists=True, dir_okay=False), help="file with a chat template")
    @click.option("--pooling", type=click.Choice(["last", "first", "mean"]), help="how it makes embeddings")
    def add(alias: str, model: str, template: str | None, pooling: str | None) -> None:
        "Add a GGUF file, a folder or a name as pellucid/ALIAS"
        if not alias or any(c.isspace() for c in alias):
            raise click.ClickException(f"ALIAS={alias!r}: expected a name without spaces")
        _check(model)
        path = Path(model)
        kept: dict[str, Any] = {"model": str(path.resolve()) if path.exists() else model}
        if template is not None:
            kept["template"] = Path(template).read_text(encoding="utf-8")
        if pooling is not None:
            kept["pooling"] = pooling
        _keep({**_added(), alias: kept})

    @group.command(name="remove")
    @click.argument("alias")
    def remove(alias: str) -> None:
        "Remove what `add` added; its file stays"
        added = _added()
        if added.pop(alias, None) is None:
            raise click.ClickException(f"{alias}: expected one of {', '.join(added) or 'those of llm pellucid add'}")
        _keep(added)


def _check(model: str) -> None:
    """Raises ClickException for what is not a model. Nothing is downloaded."""
    from pellucid import weights
    from pellucid.errors import PellucidError

    try:
        if weights.catalog.find(model) is None:
            with weights.open_model(weights.locate("MODEL", model)):
                pass
    except (PellucidError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _file() -> Path:
    return Path(llm.user_dir()) / "pellucid-models.json"


def _added() -> dict[str, Any]:
    """The models that `add` wrote. Raises ClickException if the file is damaged."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise click.ClickException(f"{_file()}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error)) from None
    if not isinstance(found, dict) or not all(map(_is_entry, found.values())):
        raise _damaged("expected an object of objects that have a text as their model")
    return found


def _is_entry(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("model"), str):
        return False
    return all(isinstance(one.get(name, ""), str) for name in ("template", "pooling"))


def _damaged(why: str) -> click.ClickException:
    return click.ClickException(
        f"{_file()}: {why}: correct the file, or delete it and add its models again with `llm pellucid add`"
    )


def _keep(added: dict[str, Any]) -> None:
    """Replaces the file once the new one is complete. Raises ClickException."""
    from pellucid.errors import ModelFileError
    from pellucid.weights.writer import whole_file

    target = _file().resolve()  # a link stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(str(target)) as file:
            file.write((json.dumps(added, indent=2) + "\n").encode())
    except (ModelFileError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _sources() -> list[Source]:
    """The catalogue's models, those that were pulled, those that were added. If the file of the latter is damaged, a
    warning says so, and they are left out: an error would end every command of `llm`, even those for other models."""
    from pellucid.errors import FetchError
    from pellucid.weights import catalog, inventory

    names = [entry.name for entry in catalog.entries() if not entry.terms or catalog.is_cached(entry.name)]
    try:
        names += [held.name for held in inventory.pulled()]
    except FetchError:  # the cache cannot be read
        pass
    added = {}
    try:
        added = _added()
    except click.ClickException as error:
        warnings.warn(f"models of llm pellucid add are left out: {error.message}", stacklevel=1)
    found = [Source(name, name) for name in names if name not in added]
    return found + [Source(name, one["model"], one.get("template"), one.get("pooling")) for name, one in added.items()]


# ---- chats --------------------------------------------------------------------------------------------------------


class _Options(llm.Options):
    max_tokens: int | None = Field(description="Most tokens of an answer", default=None)
    temperature: float | None = Field(description="0: always the likeliest token", default=None)
    top_k: int | None = Field(description="Draw from so many of the likeliest tokens", default=None)
    top_p: float | None = Field(description="Draw from the likeliest tokens that have this probability", default=None)
    min_p: float | None = Field(description="Least probability, as a part of the likeliest one's", default=None)
    repeat_penalty: float | None = Field(description="Above 1: tokens that occurred become less likely", default=None)
    seed: int | None = Field(description="Of the draws: the same gives the same answer", default=None)
    stop: str | list[str] | None = Field(description="The answer ends before this text", default=None)
    json_object: bool | None = Field(description="The answer is a JSON object", default=None)


class _Chat:
    """What both kinds of chat models share."""

    can_stream = True
    supports_schema = True
    supports_tools = True

    class Options(_Options):
        pass

    def __init__(self, source: Source) -> None:
        self.model_id = source.id
        self._source = source

    def _answer(self, prompt: Any) -> Answer:
        from pellucid.adapters.answers import Answer
        from pellucid.adapters.shared import check_template, closed
        from pellucid.openai.fields import chat_call, completion_call
        from pellucid.openai.limits import UNBOUNDED

        model, template = self._source.open(), self._source.template
        body = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
        if body.pop("json_object", None):
            body["response_format"] = {"type": "json_object"}
        if prompt.schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": closed(prompt.schema)}}
        if prompt.tools:
            body["tools"] = [_tool(tool) for tool in prompt.tools]
        messages = _messages(prompt.messages)
        tokenizer = model.tokenizer
        if template is None and not prompt.tools and tokenizer is not None and tokenizer.chat_template is None:
            # A model that does not chat continues the text.
            text = "\n".join(message["content"] for message in messages)
            return Answer(model, completion_call({**body, "prompt": text}, UNBOUNDED), self.model_id)
        check_template(model, template, "llm pellucid add ALIAS MODEL --template FILE")
        call = chat_call({**body, "messages": messages}, UNBOUNDED)
        if template is not None:
            call.template["template"] = template
        return Answer(model, call, self.model_id)


def _events(event: dict[str, Any], calls: dict[int, dict[str, str]]) -> Iterator[str | StreamEvent]:
    """An event in `llm`'s form. calls: collects the tool calls."""
    for choice in event["choices"]:
        delta = choice.get("delta", {"content": choice.get("text")})
        if delta.get("reasoning_content"):
            yield StreamEvent(type="reasoning", chunk=delta["reasoning_content"])
        if delta.get("content"):
            yield StreamEvent(type="text", chunk=delta["content"])
        for one in delta.get("tool_calls", ()):
            function = one["function"]
            call = calls.setdefault(one["index"], {"arguments": ""})
            if "name" in function:
                call |= {"id": one["id"], "name": function["name"]}
                yield StreamEvent(type="tool_call_name", chunk=function["name"], tool_call_id=one["id"])
            call["arguments"] += function["arguments"]
            yield StreamEvent(type="tool_call_args", chunk=function["arguments"], tool_call_id=call["id"])


def _ended(response: Any, answer: Answer, calls: dict[int, dict[str, str]]) -> None:
    for call in calls.values():
        try:
            arguments = json.loads(call["arguments"] or "{}")
        except ValueError:
            raise _Error(f"the call of {call['name']} was cut off: {call['arguments'][:80]}") from None
        response.add_tool_call(llm.ToolCall(name=call["name"], arguments=arguments, tool_call_id=call["id"]))
    used = answer.used()
    response.set_usage(input=used["prompt_tokens"], output=used["completion_tokens"])
    response.response_json = {"usage": used, "timings": answer.timings}


class PellucidChat(_Chat, llm.Model):
    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> Iterator[str | StreamEvent]:
        calls: dict[int, dict[str, str]] = {}
        with _as_lines():
            answer = self._answer(prompt)
            for event in answer.events():
                yield from _events(event, calls)
        _ended(response, answer, calls)


class PellucidAsyncChat(_Chat, llm.AsyncModel):
    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> AsyncGenerator[str | StreamEvent, None]:
        import asyncio

        calls: dict[int, dict[str, str]] = {}
        with _as_lines():
            answer = await asyncio.get_running_loop().run_in_executor(None, self._answer, prompt)
            async for event in answer.aevents():
                for found in _events(event, calls):
                    yield found
        _ended(response, answer, calls)


def _tool(tool: Any) -> dict[str, Any]:
    from pellucid.adapters.shared import closed

    if not isinstance(tool, llm.Tool):
        raise _Error(f"{type(tool).__name__}: there is no server that could run this tool")
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": closed(tool.input_schema),
        },
    }


def _messages(given: Iterable[Any]) -> list[dict[str, Any]]:
    """OpenAI's messages, from those of `llm`, which have parts."""
    found: list[dict[str, Any]] = []
    for message in given:
        texts, reasoning, calls = [], [], []
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                found.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": part.output})
            elif isinstance(part, ToolCallPart):
                function = {"name": part.name, "arguments": json.dumps(part.arguments)}
                calls.append({"id": part.tool_call_id, "type": "function", "function": function})
            elif isinstance(part, ReasoningPart):
                reasoning.append(part.text)
            elif isinstance(part, TextPart):
                texts.append(part.text)
            else:
                raise _Error(f"{type(part).__name__}: this model reads only text")
        if texts or reasoning or calls:
            one: dict[str, Any] = {"role": message.role, "content": "".join(texts)}
            if reasoning:
                one["reasoning_content"] = "".join(reasoning)
            if calls:
                one["tool_calls"] = calls
            found.append(one)
    return found


# ---- embeddings ---------------------------------------------------------------------------------------------------


class PellucidEmbedding(llm.EmbeddingModel):
    supports_text = True
    batch_size = 32

    def __init__(self, source: Source) -> None:
        self.model_id = source.id
        self._source = source

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        from pellucid.pooling import POOLINGS

        pooling: Any = self._source.pooling
        with _as_lines():
            model = self._source.open()
            if pooling is None and model.core.embedder.pooling is None:
                way = f"llm pellucid add ALIAS MODEL --pooling {'|'.join(POOLINGS)}"
                raise _Error(f"the model's files do not say how it makes an embedding: say it with {way}")
            rows = model.embed([str(item) for item in items], pooling=pooling)
        yield from (row.tolist() for row in rows)
