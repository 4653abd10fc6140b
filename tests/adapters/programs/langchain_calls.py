"""What programs with LangChain rely on: tools and schemas mean what they declare, the model that is set runs, an event
loop goes on while a model is loaded, caches tell models apart, and what is cancelled or closed stops."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage, trim_messages
from pydantic import BaseModel, Field

from pellucid import Model
from pellucid.adapters.langchain import ChatPellucid, PellucidEmbeddings, PellucidLLM
from tests.adapters.programs.stopped import MOST, aclosed, cancelled, closed

path = sys.argv[1]
ASK = "Name a colour."
chat = ChatPellucid(model=path, temperature=0, max_tokens=8)

# ---- tools and schemas


class Scores(BaseModel):
    scores: dict[str, int] = Field(min_length=1, max_length=1)
    note: str | None = None


def find(city: str, filters: dict[str, str], units: str = "C") -> str:
    """Finds."""
    return ""


def schema_of(bound: Any) -> Any:
    return json.loads(bound.first.kwargs["schema"])


def tool_of(bound: Any) -> Any:
    return bound.kwargs["tools"][0]["function"]


schema = schema_of(chat.with_structured_output(Scores))
assert schema["properties"]["scores"]["additionalProperties"] == {"type": "integer"}, schema
assert schema["required"] == ["scores"] and schema["additionalProperties"] is False, schema
assert "additionalProperties" not in schema_of(chat.with_structured_output(Scores, strict=False))
answer = chat.with_structured_output(Scores).invoke("Score red.", max_tokens=200, seed=1)
assert isinstance(answer, Scores) and len(answer.scores) == 1, answer

tool = tool_of(chat.bind_tools([find]))
assert tool["parameters"]["properties"]["filters"]["additionalProperties"] == {"type": "string"}, tool
assert tool["parameters"]["required"] == ["city", "filters"], tool
assert tool["parameters"]["additionalProperties"] is False and tool["strict"] is True, tool
declared = {"name": "find", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
in_full: dict[str, Any] = {"type": "function", "function": declared}
for given in (declared, in_full):
    assert tool_of(chat.bind_tools([given]))["parameters"]["additionalProperties"] is False
    assert tool_of(chat.bind_tools([given], strict=False)) == declared
kept: dict[str, Any] = {"type": "function", "function": {**declared, "strict": False}}
assert tool_of(chat.bind_tools([kept])) is kept["function"]

for kind in (Scores, Scores.model_json_schema()):
    for strict in (True, False):
        calling: Any = chat.with_structured_output(kind, method="function_calling", strict=strict)
        function = tool_of(calling.first)
        assert function["name"] == "Scores" and function.get("strict", False) is strict, function
        assert ("additionalProperties" in function["parameters"]) is strict, function
        if strict:  # other keys could go on without end
            answer = calling.invoke("Score red.", max_tokens=200, seed=1)
            assert len(answer["scores"] if isinstance(kind, dict) else answer.scores) == 1, answer
raw: Any = {"method": "function_calling", "include_raw": True}
answer = chat.with_structured_output(Scores, **raw, max_tokens=200, seed=1).invoke("Score red.")
assert isinstance(answer["parsed"], Scores) and answer["parsing_error"] is None and answer["raw"].tool_calls
assert chat.with_structured_output(Scores, **raw, max_tokens=1).invoke("Score red.")["parsed"] is None

# ---- the model that is set
model = chat.pellucid
assert chat.model_copy(update={"load": {"context": 64}}).pellucid.context_length == 64
assert chat.model_copy(update={"temperature": 1}).pellucid is model is chat.pellucid
assert chat == ChatPellucid(model=path, temperature=0, max_tokens=8), "whether it is loaded is no difference"
other = chat.model_copy()
other.model = "no/such/file.gguf"
embeddings = PellucidEmbeddings(model=model)
assert embeddings.pellucid is model
embeddings.model = "no/such/file.gguf"
for wrong in (lambda: other.invoke(ASK), lambda: embeddings.embed_query(ASK)):
    try:
        wrong()
    except Exception as error:
        assert "no/such/file.gguf" in str(error), error
    else:
        raise AssertionError("the old model ran")
other.model = path
other.load = {"context": 128}
assert other.pellucid.context_length == 128
first = other.pellucid
first.close()
assert other.pellucid is not first and other.invoke(ASK).content  # loaded again, as a new object would be

# ---- caches, and numbers of tokens
set_llm_cache(InMemoryCache())
plain = chat.invoke(ASK)
assert chat.invoke(ASK).content == plain.content
formed = ChatPellucid(model=path, temperature=0, max_tokens=8, template="The capital of France is")
assert formed.invoke(ASK).content == formed.invoke(ASK, template=formed.template).content != plain.content
with Model.load(path, kv="f32") as wide:
    own = {one._get_llm_string() for one in (chat, ChatPellucid(model=model), ChatPellucid(model=wide), formed)}
    assert len(own) == 4, own
set_llm_cache(None)
for counting in (chat, PellucidLLM(model=path)):
    assert counting.get_num_tokens("Hello world") == len(model.tokenize("Hello world")) == 2
history = [HumanMessage("word " * n) for n in (50, 3, 2)]
assert trim_messages(history, max_tokens=40, token_counter=chat, strategy="last") == history[1:]

# ---- a text to stop at is one text
said = chat.invoke(ASK).content
assert isinstance(said, str) and said
assert chat.invoke(ASK, stop=said[0] + "qzx").content == said
assert chat.bind(stop=said[0]).invoke(ASK).content == ""
short = ChatPellucid(model=path, temperature=0, max_tokens=8, model_kwargs={"stop": said[0] + "qzx"})
assert short.invoke(ASK).content == said and short._get_ls_params()["ls_stop"] == [said[0] + "qzx"]
try:
    chat.invoke(ASK, stop=5)
except TypeError as error:
    assert str(error).startswith("stop"), error
else:
    raise AssertionError("stop")

# ---- loading leaves the event loop alone
threads: list[threading.Thread] = []
real: Any = Model.load


def load(*arguments: Any, **options: Any) -> Model:
    threads.append(threading.current_thread())
    found: Model = real(*arguments, **options)
    return found


async def first_calls() -> None:
    await ChatPellucid(model=path, load={"context": 101}).ainvoke(ASK, max_tokens=1)
    async for _ in ChatPellucid(model=path, load={"context": 102}).astream(ASK, max_tokens=1):
        pass
    await PellucidLLM(model=path, load={"context": 103}).ainvoke(ASK, max_tokens=1)
    async for _ in PellucidLLM(model=path, load={"context": 104}).astream(ASK, max_tokens=1):
        pass


Model.load = staticmethod(load)  # type: ignore[method-assign]
asyncio.run(first_calls())
Model.load = real  # type: ignore[method-assign]
assert len(threads) == 4 and threading.main_thread() not in threads, threads

# ---- the prompts of a batch run at once, or as many as max_concurrency says
eight = [f"The sea {number}" for number in range(8)]
llm = PellucidLLM(model=path, temperature=0, max_tokens=8, ignore_eos=True)
apart = [llm.invoke(prompt) for prompt in eight]


def at_once(batch: Any) -> float:
    """How many of the prompts ran in each pass: alone, each takes a pass for each of its 8 tokens."""
    before = model.stats().passes
    assert batch() == apart
    return 8 * len(eight) / (model.stats().passes - before)


for most, config in ((8, None), (4, {"max_concurrency": 4}), (1, {"max_concurrency": 1})):
    assert at_once(lambda config=config: llm.batch(eight, config)) == most
    assert at_once(lambda config=config: asyncio.run(llm.abatch(eight, config))) == most

# ---- log probabilities, in OpenAI's form
told = model.chat([{"role": "user", "content": ASK}], temperature=0, max_tokens=8, logprobs=2).logprobs
expected = [(one.piece, one.logprob, [(piece, value) for _, piece, value in one.top]) for one in told]
assert len(expected) == 8 and all(len(top) == 2 for _, _, top in expected)


def logprobs_of(found: Any) -> list[Any]:
    read = []
    for one in found["logprobs"]["content"]:
        assert all(bytes(each["bytes"]).decode() == each["token"] for each in (one, *one["top_logprobs"])), one
        read.append((one["token"], one["logprob"], [(each["token"], each["logprob"]) for each in one["top_logprobs"]]))
    return read


async def streamed(asked: Any) -> Any:
    return [chunk async for chunk in asked.astream(ASK)]


with_logprobs: Any = ChatPellucid(model=path, temperature=0, max_tokens=8, logprobs=2)
chunks, achunks = [*with_logprobs.stream(ASK)], asyncio.run(streamed(with_logprobs))
for message in (
    with_logprobs.invoke(ASK),
    asyncio.run(with_logprobs.ainvoke(ASK)),
    sum(chunks[1:], chunks[0]),
    sum(achunks[1:], achunks[0]),
    chat.invoke(ASK, logprobs=2),
):
    assert logprobs_of(message.response_metadata) == expected, message
assert "logprobs" not in chat.invoke(ASK).response_metadata
told = model.generate(ASK, temperature=0, max_tokens=8, logprobs=2).logprobs
expected = [(one.piece, one.logprob, [(piece, value) for _, piece, value in one.top]) for one in told]
of_texts: Any = PellucidLLM(model=path, temperature=0, max_tokens=8, logprobs=2)
for asked_of in ([ASK], [ASK, ASK]):
    for result in (of_texts.generate(asked_of), asyncio.run(of_texts.agenerate(asked_of))):
        for (generation,) in result.generations:
            assert logprobs_of(generation.generation_info) == expected, generation


class Kept(BaseCallbackHandler):
    def on_llm_end(self, response: Any, **_: Any) -> None:
        ((generation,),) = response.generations
        ends.append(logprobs_of(generation.generation_info))


ends: list[Any] = []
for _ in of_texts.stream(ASK, {"callbacks": [Kept()]}):
    pass
assert ends == [expected], ends
assert llm.generate([ASK]).generations[0][0].generation_info is None

# ---- embeddings of a model whose files do not say how it makes them
try:
    PellucidEmbeddings(model=model).embed_query(ASK)
except ValueError as error:
    assert str(error).startswith("pooling: the model's files do not say"), error
else:
    raise AssertionError("pooling")
for how in ("last", "mean"):
    rows = PellucidEmbeddings(model=model, pooling=how).embed_documents([ASK])
    assert rows == model.embed([ASK], pooling=how).tolist()
try:
    PellucidEmbeddings(model=model, pooling="middle")
except ValueError as error:
    assert "'last', 'first' or 'mean'" in str(error), error
else:
    raise AssertionError("middle")

# ---- what is cancelled or closed stops
endless: Any = {"max_tokens": MOST, "ignore_eos": True}
llm = PellucidLLM(model=path)
assert llm.pellucid is model


async def read(asked: Any) -> None:
    async for _ in asked.astream(ASK, **endless):
        pass


for asked in (chat, llm):
    cancelled(model, lambda asked=asked: asked.ainvoke(ASK, **endless))  # type: ignore[misc]
    cancelled(model, lambda asked=asked: read(asked))  # type: ignore[misc]
    aclosed(model, lambda asked=asked: asked.astream(ASK, **endless))  # type: ignore[misc]
    closed(model, lambda asked=asked: asked.stream(ASK, **endless))  # type: ignore[misc]
print("fine")
