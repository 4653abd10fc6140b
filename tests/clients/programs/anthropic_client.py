"""anthropic for Python: messages, whole and as events, tokens counted, models, typed errors, async."""

import asyncio
import json
import sys

import anthropic

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
ask = {
    "model": name,
    "max_tokens": 24,
    "messages": [{"role": "user", "content": "Name three colours."}],
    "extra_body": {"temperature": 0},
}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


done = client.messages.create(**ask)
assert text_of(done) == expected["greedy"] and (done.role, done.type, done.model) == ("assistant", "message", name)
assert done.stop_reason in ("end_turn", "max_tokens") and done.usage.output_tokens > 0
assert text_of(client.messages.create(**ask, system="Be brief.")) == expected["brief"]
blocks = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=1234;"},
    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
]
assert text_of(client.messages.create(**ask, system=blocks)) == expected["brief"]

counted = client.messages.count_tokens(model=name, messages=ask["messages"]).input_tokens
assert counted == done.usage.input_tokens + (done.usage.cache_read_input_tokens or 0)

with client.messages.stream(**ask) as stream:
    assert "".join(stream.text_stream) == expected["greedy"]
    final = stream.get_final_message()
    assert text_of(final) == expected["greedy"] and final.stop_reason == done.stop_reason
    assert final.usage.output_tokens == done.usage.output_tokens
kinds = [event.type for event in client.messages.create(**ask, stream=True)]
assert (kinds[0], kinds[-1]) == ("message_start", "message_stop"), kinds

stopped = client.messages.create(**ask, stop_sequences=["zzz", ","])
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ",")
assert text_of(stopped) == expected["greedy"].partition(",")[0]

said = [*ask["messages"], {"role": "assistant", "content": done.content}, {"role": "user", "content": "Why?"}]
more = client.messages.create(**ask | {"messages": said})
assert more.usage.input_tokens + more.usage.cache_read_input_tokens > counted
assert {model.id for model in client.models.list()} == {name, "embedder"}


def error(kind, **arguments):
    try:
        client.messages.create(**(ask | arguments))
    except kind as found:
        return found
    raise AssertionError(f"no {kind.__name__} with {arguments}")


assert error(anthropic.NotFoundError, model="other").body["error"]["type"] == "not_found_error"
assert "max_tokens" in str(error(anthropic.BadRequestError, max_tokens=-1))
long = [{"role": "user", "content": "word " * 20000}]
assert "prompt is too long" in str(error(anthropic.BadRequestError, messages=long))


async def together():
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as many:
        return [text_of(m) for m in await asyncio.gather(*(many.messages.create(**ask) for _ in range(6)))]


assert asyncio.run(together()) == [expected["greedy"]] * 6
