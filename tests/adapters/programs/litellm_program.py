"""What programs with litellm and DSPy do: completion, streams, asyncio, schemas, tools, embeddings, errors."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

import dspy
import litellm
from pydantic import BaseModel

from pellucid import Model
from pellucid.adapters.litellm import register

path, embedder = sys.argv[1:]
name = f"pellucid/{path}"
handler = register(names=[path], models={})
for known in (name, "pellucid/smollm2-135m"):  # what DSPy asks before its first call
    assert litellm.supports_response_schema(known, "pellucid"), known
assert "response_format" in litellm.get_supported_openai_params(name, "pellucid")
assert register() is not handler and len(litellm.custom_provider_map) == 1, "registering again replaces"
one: Any = path
try:
    register(names=one)
except TypeError as wrong:
    assert "names=" in str(wrong)
else:
    raise AssertionError("a name alone is not several")
ask: Any = [{"role": "user", "content": "Name a colour."}]
plain: Any = {"temperature": 0, "max_tokens": 8}

answer = litellm.completion(name, ask, **plain)
assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 8
chunks = list(litellm.completion(name, ask, stream=True, stream_options={"include_usage": True}, **plain))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


async def together() -> str:
    found = await asyncio.gather(*(litellm.acompletion(name, ask, **plain) for _ in range(3)))
    parts = [
        chunk.choices[0].delta.content or ""
        async for chunk in await litellm.acompletion(name, ask, stream=True, **plain)
    ]
    assert {one.choices[0].message.content for one in found} == {"".join(parts)}
    return "".join(parts)


print(answer.choices[0].message.content, streamed, asyncio.run(together()), sep="\n--\n", end="\n--\n")
two = litellm.completion(name, ask, n=2, seed=3, top_k=5, max_tokens=4)  # top_k is not OpenAI's
with Model.load(path) as model:
    expected = [model.chat(ask, seed=seed, top_k=5, max_tokens=4).text for seed in (3, 4)]
assert [choice.message.content for choice in two.choices] == expected


class Colour(BaseModel):
    name: str
    warm: bool


bound = litellm.completion(name, ask, temperature=0, max_tokens=64, response_format=Colour)
Colour.model_validate_json(bound.choices[0].message.content)
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
must: Any = {"tools": tools, "tool_choice": "required", "temperature": 0, "max_tokens": 64}
called = litellm.completion(name, ask, **must).choices[0]
again = litellm.stream_chunk_builder(list(litellm.completion(name, ask, stream=True, **must))).choices[0]
for choice in (called, again):
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.tool_calls[0].function.name == "weather"
assert called.message.tool_calls[0].function.arguments == again.message.tool_calls[0].function.arguments

# ---- embeddings, whole and in an event loop
texts = ["Owls hunt at night.", "Swallows fly south."]
rows = [one["embedding"] for one in litellm.embedding(f"pellucid/{embedder}", texts).data]
with Model.load(embedder) as model:
    assert rows == model.embed(texts).tolist()
assert rows == [one["embedding"] for one in asyncio.run(litellm.aembedding(f"pellucid/{embedder}", texts)).data]

# ---- errors
long = [{"role": "user", "content": "word " * 9000}]
for error, says, call in (
    (litellm.BadRequestError, "temperature='hot'", lambda: litellm.completion(name, ask, temperature="hot")),
    (litellm.ContextWindowExceededError, "tokens needed", lambda: litellm.completion(name, long)),
    (litellm.NotFoundError, "nowhere.gguf", lambda: litellm.completion("pellucid/nowhere.gguf", ask)),
    (litellm.BadRequestError, "template", lambda: litellm.completion(name, ask, template="{% if %}")),
):
    try:
        call()
    except error as seen:
        assert says in str(seen), seen
    else:
        raise AssertionError(says)
hidden = litellm.completion(name, ask, template="The capital of France is", **plain).choices[0].message.content
print(hidden, end="\n--\n")

# ---- DSPy
lm = dspy.LM(name, temperature=0, max_tokens=100, cache=False)
dspy.configure(lm=lm, adapter=dspy.JSONAdapter())


class Answer(dspy.Signature):
    """Answer with a word."""

    question: str = dspy.InputField()
    answer: Literal["Ouagadougou", "Reykjavik"] = dspy.OutputField()  # which no model says unless it is bound


found = dspy.Predict(Answer)(question="What is the capital of France?")
assert found.answer in ("Ouagadougou", "Reykjavik"), found
print("fine")
