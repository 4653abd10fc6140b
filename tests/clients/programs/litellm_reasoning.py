"""litellm: streams with reasoning, before text and before calls of tools."""

import json
import sys

import litellm

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
both = expected["reasoning"], expected["text"]
chat = {"model": f"openai/{name}", "api_base": url, "api_key": "none", "max_retries": 0, "temperature": 0}
chat |= {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 30}
chat["extra_body"] = {"thinking_budget": 6}
schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
schema["additionalProperties"] = False
tools = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": schema}}]
calling = chat | {"max_tokens": 200, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}

message = litellm.completion(**chat).choices[0].message
assert (message.reasoning_content, message.content) == both, message
deltas = [chunk.choices[0].delta for chunk in litellm.completion(**chat, stream=True)]
assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == both[0]
assert "".join(delta.content or "" for delta in deltas) == both[1]

message = litellm.completion(**calling).choices[0].message
(call,) = message.tool_calls
assert message.reasoning_content and set(json.loads(call.function.arguments)) == {"city"}
streamed = litellm.stream_chunk_builder(list(litellm.completion(**calling, stream=True))).choices[0].message
(again,) = streamed.tool_calls
assert (again.function.arguments, streamed.reasoning_content) == (call.function.arguments, message.reasoning_content)
