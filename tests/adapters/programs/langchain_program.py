"""What programs with LangChain do: invoke, stream, batch, asyncio, errors."""

from __future__ import annotations

import asyncio
import sys

from pellucid import Model
from pellucid.adapters.langchain import ChatPellucid, PellucidEmbeddings, PellucidLLM

path = sys.argv[1]
chat = ChatPellucid(model=path, temperature=0, max_tokens=8)
llm = PellucidLLM(model=path, temperature=0, max_tokens=4)
assert chat.pellucid is llm.pellucid, "one model for the same path"

answer = chat.invoke("Name a colour.")
assert answer.usage_metadata and answer.usage_metadata["output_tokens"] == 8
assert answer.response_metadata["finish_reason"] == "length"
streamed = "".join(str(chunk.content) for chunk in chat.stream("Name a colour."))
batch = chat.batch(["Name a colour."] * 4, {"max_concurrency": 4})
assert {str(one.content) for one in batch} == {str(answer.content)}


async def together() -> str:
    found = await asyncio.gather(*(chat.ainvoke("Name a colour.") for _ in range(3)))
    parts = [str(chunk.content) async for chunk in chat.astream("Name a colour.")]
    assert {str(one.content) for one in found} == {"".join(parts)}
    return "".join(parts)


text = llm.invoke("The capital of France is")
assert text == "".join(llm.stream("The capital of France is"))
print(answer.content, streamed, text, asyncio.run(together()), sep="\n--\n", end="\n--\n")

with Model.load(path) as model:
    assert ChatPellucid(model=model, temperature=0, max_tokens=8).invoke("Name a colour.").content == answer.content
for wrong, says in (
    (lambda: chat.invoke("Hi", temperature="hot"), "temperature"),
    (lambda: chat.with_structured_output({"title": "x", "type": "object"}, method="magic"), "method"),
    (lambda: ChatPellucid(model="no/such/file.gguf").invoke("Hi"), "no/such/file.gguf"),
    (lambda: ChatPellucid(model=path, max_token=5), "max_token: neither a field"),
    (lambda: PellucidEmbeddings(model=path, querry="x"), "querry"),
    (lambda: chat.invoke("Hi", n=2), "n=2"),
):
    try:
        wrong()
    except Exception as error:
        assert says in str(error), error
    else:
        raise AssertionError(says)
assert PellucidEmbeddings(model=path).embed_documents([]) == []

likeliest = ChatPellucid(
    model=path, top_k=1, seed=5, max_tokens=8, timeout=60, api_key="none"
)  # an option beside the fields
assert likeliest.model_kwargs == {"top_k": 1} and likeliest.invoke("Name a colour.").content == answer.content
assert isinstance(chat.with_structured_output({}, method="json_mode").invoke("Name a colour.", max_tokens=200), dict)


def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


calling = chat.bind_tools([weather], tool_choice="weather", max_tokens=80)
chunks = [*calling.stream("How is the weather in Rome?")]
said = sum(chunks[1:], chunks[0])
assert said.tool_calls[0]["name"] == "weather" and said.response_metadata["finish_reason"] == "tool_calls"
assert calling.invoke("How is the weather in Rome?").response_metadata["finish_reason"] == "tool_calls"
print("fine")
