"""ollama for Python: chat, generate, streams, embeddings, models, errors, async."""

import asyncio
import json
import sys

import ollama

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = ollama.Client(host=url)
messages = [{"role": "user", "content": "Name three colours."}]
options = {"num_predict": 24, "temperature": 0}

done = client.chat(name, messages, options=options)
assert done.message.content == expected["greedy"] and done.message.role == "assistant"
assert done.done and done.done_reason in ("stop", "length") and done.eval_count > 0 and done.total_duration > 0
parts = list(client.chat(name, messages, options=options, stream=True, keep_alive="5m"))
assert "".join(part.message.content for part in parts) == expected["greedy"]
assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
system = [{"role": "system", "content": "Be brief."}]
assert client.chat(name, system + messages, options=options).message.content == expected["brief"]

said = client.generate(name, "Name three colours.", options=options)
assert said.response == expected["greedy"]
assert client.generate(name, "Name three colours.", system="Be brief.", options=options).response == expected["brief"]
raw = client.generate(name, "The capital of France is", raw=True, options={"num_predict": 8, "temperature": 0})
assert raw.response == expected["completion"]
pieces = client.generate(
    name, "The capital of France is", raw=True, stream=True, options={"num_predict": 8, "temperature": 0}
)
assert "".join(piece.response for piece in pieces) == expected["completion"]
assert client.generate(name).done_reason == "load"
scored = client.chat(name, messages, options=options, logprobs=True, top_logprobs=2)
assert len(scored.logprobs) <= scored.eval_count and all(len(one.top_logprobs) == 2 for one in scored.logprobs)

texts = ["An owl sees well at night.", "The castle was built in 1407."]
found = client.embed("embedder", texts)
assert len(found.embeddings) == 2 and found.prompt_eval_count > 0
assert client.embeddings("embedder", texts[1]).embedding == found.embeddings[1]
assert len(client.embed("embedder", texts[0], dimensions=8).embeddings[0]) == 8

assert {model.model for model in client.list().models} == {name, "embedder"}
assert {model.name for model in client.ps().models} == {name, "embedder"}
shown = client.show(name)
assert shown.modelinfo["general.architecture"] == "llama" and "completion" in shown.capabilities
assert shown.details.quantization_level and shown.template


def error(status, work):
    try:
        work()
    except ollama.ResponseError as found:
        assert found.status_code == status, found
        return str(found)
    raise AssertionError("no error")


assert "other" in error(404, lambda: client.chat("other", messages))
assert "temperature" in error(400, lambda: client.chat(name, messages, options={"temperature": -1}))
for work in (
    lambda: client.pull(name),
    lambda: client.delete(name),
    lambda: client.copy(name, "x"),
    lambda: client.create("x"),
):
    assert "pellucid" in error(403, work)


async def together():
    many = ollama.AsyncClient(host=url)
    return [
        m.message.content for m in await asyncio.gather(*(many.chat(name, messages, options=options) for _ in range(6)))
    ]


assert asyncio.run(together()) == [expected["greedy"]] * 6
