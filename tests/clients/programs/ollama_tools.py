"""ollama for Python: formats and tools."""

import json
import sys

import ollama

url, name = sys.argv[1:]
client = ollama.Client(host=url)
options = {"num_predict": 200, "temperature": 0}
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
messages = [{"role": "user", "content": "It is 20 degrees in Paris."}]
found = json.loads(client.chat(name, messages, format=schema, options=options).message.content)
assert set(found) == {"city", "degrees"} and isinstance(found["degrees"], int)
found = json.loads(client.generate(name, "It is 20 degrees in Paris.", format=schema, options=options).response)
assert set(found) == {"city", "degrees"}


def weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: the city's name
    """
    return f"It rains in {city}."


# The model calls a tool when it likes to; what is asked for is that both forms of the answer agree.
for seed in range(3):
    ask = {"tools": [weather], "options": {**options, "seed": seed, "temperature": 1}}
    done = client.chat(name, [{"role": "user", "content": "How is the weather in Paris?"}], **ask).message
    parts = list(client.chat(name, [{"role": "user", "content": "How is the weather in Paris?"}], stream=True, **ask))
    assert "".join(part.message.content or "" for part in parts) == (done.content or "")
    streamed = [call.function for part in parts for call in part.message.tool_calls or []]
    assert streamed == [call.function for call in done.tool_calls or []]

# What was called is given back, in this client's form.
said = [
    {"role": "user", "content": "How is the weather in Paris?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    },
    {"role": "tool", "tool_name": "weather", "content": "It rains."},
]
assert client.chat(name, said, tools=[weather], options=options).done
