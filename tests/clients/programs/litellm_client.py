"""litellm: its provider for OpenAI-compatible servers; chat, stream, text completion, tools, errors mapped to its
own."""

import json
import sys

import litellm

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
server = {"model": f"openai/{name}", "api_base": url, "api_key": "none", "max_retries": 0}
chat = {**server, "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 24, "temperature": 0}

assert litellm.completion(**chat).choices[0].message.content == expected["greedy"]
parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**chat, stream=True)]
assert "".join(parts) == expected["greedy"]
text = litellm.text_completion(
    model=f"text-completion-openai/{name}",
    api_base=url,
    api_key="none",
    prompt="The capital of France is",
    max_tokens=8,
    temperature=0,
)
assert text.choices[0].text == expected["completion"]
schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
schema["additionalProperties"] = False
tools = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": schema}}]
ask = {**chat, "max_tokens": 200, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
(call,) = litellm.completion(**ask).choices[0].message.tool_calls
assert call.function.name == "weather" and set(json.loads(call.function.arguments)) == {"city"}
(again,) = litellm.stream_chunk_builder(list(litellm.completion(**ask, stream=True))).choices[0].message.tool_calls
assert (again.function.name, again.function.arguments) == (call.function.name, call.function.arguments)

for wrong, kind in (
    ({"messages": [{"role": "user", "content": "word " * 20000}]}, litellm.ContextWindowExceededError),
    ({"model": "openai/other"}, litellm.NotFoundError),
):
    try:
        litellm.completion(**(chat | wrong))
    except kind:
        continue
    raise AssertionError(f"no {kind.__name__}")
