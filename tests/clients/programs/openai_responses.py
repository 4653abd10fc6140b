"""openai for Python: responses, whole and as events, and embeddings."""

import json
import math
import sys

import openai

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
ask = {"model": name, "input": "Name three colours.", "max_output_tokens": 24, "temperature": 0}

done = client.responses.create(**ask)
assert done.output_text == expected["greedy"] and done.output[0].role == "assistant"
assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
assert done.status in ("completed", "incomplete") and done.object == "response"
assert client.responses.create(**ask, instructions="Be brief.").output_text == expected["brief"]

events = list(client.responses.create(**ask, stream=True))
assert [e.sequence_number for e in events] == list(range(len(events)))
assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == expected["greedy"]
assert events[-1].type == f"response.{done.status}" and events[-1].response.output_text == expected["greedy"]
first = expected["greedy"].partition(",")[0]
with client.responses.stream(**ask, extra_body={"stop": ","}) as stream:
    kinds = {event.type for event in stream}
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds, kinds
    assert stream.get_final_response().output_text == first

conversation = [{"role": "user", "content": "Name three colours."}, *done.output, {"role": "user", "content": "Why?"}]
more = client.responses.create(**ask | {"input": conversation})
assert more.usage.input_tokens > done.usage.input_tokens + done.usage.output_tokens

try:
    client.responses.create(**ask, previous_response_id=done.id)
except openai.BadRequestError as error:
    assert error.param == "previous_response_id", error
else:
    raise AssertionError("it went on from an answer that was not kept")

texts = ["An owl sees well at night.", "The castle was built in 1407."]
coded = client.embeddings.create(model="embedder", input=texts)  # base64, which the package decodes
plain = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
assert [e.index for e in coded.data] == [0, 1] and coded.usage.total_tokens > 0
for a, b in zip(coded.data, plain.data, strict=True):
    assert list(a.embedding) == b.embedding and math.isclose(math.hypot(*b.embedding), 1, abs_tol=1e-5)
assert len(client.embeddings.create(model="embedder", input=texts[0], dimensions=8).data[0].embedding) == 8
try:
    client.chat.completions.create(model="embedder", messages=[{"role": "user", "content": "a"}])
except openai.BadRequestError:
    pass
else:
    raise AssertionError("an embedder chatted")
