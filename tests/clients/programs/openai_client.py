"""openai for Python: chat and completions, streams, choices, log probabilities, models, typed errors, async."""

import asyncio
import json
import sys

import openai
from pydantic import BaseModel, Field

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
messages = [{"role": "user", "content": "Name three colours."}]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
chat = {"model": name, "messages": messages, "max_tokens": 24}

done = client.chat.completions.create(**chat, temperature=0)
assert done.choices[0].message.content == expected["greedy"] and done.choices[0].message.role == "assistant"
assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
assert done.choices[0].finish_reason in ("stop", "length") and done.system_fingerprint

chunks = list(
    client.chat.completions.create(**chat, temperature=0, stream=True, stream_options={"include_usage": True})
)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected["greedy"]
assert chunks[0].choices[0].delta.role == "assistant"
assert chunks[-1].usage.total_tokens == done.usage.total_tokens  # how many were cached is not the same
first = expected["greedy"].partition(",")[0]
assert first != expected["greedy"]
with client.chat.completions.stream(**chat, temperature=0, stop=",") as stream:  # which wants an end but by length
    kinds = {event.type for event in stream}
    assert {"content.delta", "content.done"} <= kinds
    assert stream.get_final_completion().choices[0].message.content == first

two = client.chat.completions.create(**chat, seed=7, n=2)
assert [c.message.content for c in two.choices] == expected["seeds"]

logprobs = client.chat.completions.create(**chat, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs
assert all(len(t.top_logprobs) == 3 and t.logprob == t.top_logprobs[0].logprob <= 0 for t in logprobs.content)
assert b"".join(bytes(t.bytes) for t in logprobs.content).decode() == expected["greedy"]

text = client.completions.create(model=name, prompt="The capital of France is", max_tokens=8, temperature=0)
assert text.choices[0].text == expected["completion"]
both = client.completions.create(model=name, prompt=["The capital of France is", "One,"], max_tokens=8, temperature=0)
assert [c.index for c in both.choices] == [0, 1] and both.choices[0].text == expected["completion"]
echo = client.completions.create(model=name, prompt="One, two", max_tokens=0, echo=True, logprobs=1).choices[0]
assert echo.text == "One, two" and echo.logprobs.token_logprobs[0] is None and echo.logprobs.token_logprobs[1] < 0

assert [m.id for m in client.models.list()] == [name] and client.models.retrieve(name).id == name


def error(kind, **arguments):
    try:
        client.chat.completions.create(**(chat | arguments))
    except kind as found:
        return found
    raise AssertionError(f"no {kind.__name__} with {arguments}")


assert error(openai.NotFoundError, model="other").code == "model_not_found"
assert error(openai.BadRequestError, temperature=-1).param == "temperature"
assert error(openai.BadRequestError, messages=[]).param == "messages"
long = [{"role": "user", "content": "word " * 20000}]
found = error(openai.BadRequestError, messages=long)
assert found.code == "context_length_exceeded" and "maximum context length" in found.message


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


person = {**chat, "messages": [{"role": "user", "content": "Invent a person."}], "max_tokens": 60}
parsed = client.chat.completions.parse(**person, response_format=Person).choices[0].message.parsed
assert isinstance(parsed, Person)
with client.chat.completions.stream(**person, response_format=Person) as stream:
    assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)
unknown = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"not": {}}, "strict": True}}
assert error(openai.BadRequestError, response_format=unknown).param == "response_format.json_schema.schema.not"

stream = client.chat.completions.create(**(chat | {"max_tokens": 2000}), stream=True)
next(iter(stream))
stream.close()
assert client.chat.completions.create(**chat, temperature=0).choices[0].message.content == expected["greedy"]


async def together():
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as many:
        seeds = [many.chat.completions.create(**chat, seed=seed) for seed in (7, 8)] * 1
        greedy = [many.chat.completions.create(**chat, temperature=0) for _ in range(6)]
        return [c.choices[0].message.content for c in await asyncio.gather(*seeds, *greedy)]


assert asyncio.run(together()) == [*expected["seeds"], *[expected["greedy"]] * 6]
