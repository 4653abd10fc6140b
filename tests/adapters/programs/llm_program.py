"""What programs with the library `llm` do: prompts, conversations, schemas, tools, asyncio, embeddings, errors."""

from __future__ import annotations

import asyncio
import json
import sys

import llm

name, base, embedder = sys.argv[1:]
ASK, short = "Name a colour.", {"temperature": 0, "max_tokens": 8}

model = llm.get_model(name)
answer = model.prompt(ASK, **short)
assert answer.text() == "".join(model.prompt(ASK, **short)) == model.prompt(ASK, stream=False, **short).text()
assert answer.usage().output == 8 and answer.response_json["timings"]["decode_tokens"] == 7
talk = model.conversation()
first = talk.prompt(ASK, system="Be brief.", **short).text()
second = talk.prompt("And another?", **short)
second.text()
roles = [message.role for message in second.prompt.messages]
assert roles == ["system", "user", "assistant", "user"], roles


async def together() -> str:
    found = await asyncio.gather(*(llm.get_async_model(name).prompt(ASK, **short).text() for _ in range(3)))
    parts = [part async for part in llm.get_async_model(name).prompt(ASK, **short)]
    assert set(found) == {"".join(parts)}
    return "".join(parts)


print(answer.text(), asyncio.run(together()), first, second.text(), sep="\n--\n", end="\n--\n")

# ---- schemas and tools
schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
bound = json.loads(model.prompt(ASK, schema={**schema, "additionalProperties": False}, **short).text())
assert isinstance(bound["warm"], bool)
assert isinstance(json.loads(model.prompt(ASK, json_object=True, temperature=0, max_tokens=200).text()), dict)


def noon() -> str:
    "When noon is."
    return "12:00"


asked = model.prompt("Call the tool noon.", tools=[noon], temperature=0, max_tokens=60)
calls = asked.tool_calls()
history = llm.models.Prompt(
    None, model, tools=[noon],
    messages=[
        llm.user("When is noon?"),
        llm.assistant(llm.parts.ToolCallPart(name="noon", arguments={}, tool_call_id="a")),
        llm.tool_message(llm.parts.ToolResultPart(name="noon", output="12:00", tool_call_id="a")),
    ],
)  # fmt: skip
assert model._answer(history).whole()["choices"][0]["message"]["role"] == "assistant"
print(calls[0].name if calls else asked.text(), end="\n--\n")

# ---- a model without a chat template goes on with the text, and has no tools
plain = llm.get_model(base)
print(plain.prompt("The capital of France is", **short).text(), end="\n--\n")
for wrong, says in (
    (lambda: plain.prompt("When is noon?", tools=[noon]).text(), "llm pellucid add"),
    (lambda: model.prompt(ASK, temperature=-1).text(), "temperature"),
    (lambda: llm.get_embedding_model(name).embed(ASK), "--pooling"),
):
    try:
        wrong()
    except llm.ModelError as error:
        assert says in str(error), error
    else:
        raise AssertionError("no error")

# ---- embeddings
rows = list(llm.get_embedding_model(embedder).embed_multi(["Owls hunt.", "Swallows fly south."]))
print(json.dumps(rows), end="\n--\n")
print("fine")
