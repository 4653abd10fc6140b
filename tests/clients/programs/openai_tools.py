"""openai for Python: schemas and tools in rounds, over chat completions and responses."""

import json
import sys

import openai
from pydantic import BaseModel, Field

url, name = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
messages = [{"role": "user", "content": "How is the weather in Paris? It is 20 degrees."}]
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


class Weather(BaseModel):
    city: str = Field(max_length=20)
    degrees: int


# ---- chat completions ----
chat = {"model": name, "messages": messages, "max_tokens": 200, "temperature": 0}
parsed = client.chat.completions.parse(**chat, response_format=Weather).choices[0].message.parsed
assert isinstance(parsed, Weather)
function = {"name": "weather", "description": "The weather of a city.", "parameters": schema, "strict": True}
tools = [{"type": "function", "function": function}]
for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
    done = client.chat.completions.create(**chat, tools=tools, tool_choice=choice, parallel_tool_calls=False)
    (choice_made,) = done.choices
    (call,) = choice_made.message.tool_calls
    assert choice_made.finish_reason == "tool_calls" and set(json.loads(call.function.arguments)) == {"city"}
    with client.chat.completions.stream(**chat, tools=tools, tool_choice=choice, parallel_tool_calls=False) as stream:
        for _ in stream:
            pass
        (again,) = stream.get_final_completion().choices[0].message.tool_calls
    assert again.function.arguments == call.function.arguments
said = [*messages, choice_made.message, {"role": "tool", "tool_call_id": call.id, "content": "It rains."}]
last = client.chat.completions.create(**chat | {"messages": said}, tools=tools, tool_choice="none")
assert last.choices[0].message.content and not last.choices[0].message.tool_calls

# ---- responses ----
ask = {"model": name, "input": messages, "max_output_tokens": 200, "temperature": 0}
assert isinstance(client.responses.parse(**ask, text_format=Weather).output_parsed, Weather)
tools = [{"type": "function", **function}]
for choice in ("required", {"type": "function", "name": "weather"}):
    done = client.responses.create(**ask, tools=tools, tool_choice=choice, parallel_tool_calls=False)
    (call,) = (item for item in done.output if item.type == "function_call")
    assert call.name == "weather" and set(json.loads(call.arguments)) == {"city"} and done.status == "completed"
    with client.responses.stream(**ask, tools=tools, tool_choice=choice, parallel_tool_calls=False) as stream:
        kinds = {event.type for event in stream}
        (again,) = (item for item in stream.get_final_response().output if item.type == "function_call")
    assert again.arguments == call.arguments
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds, kinds
said = [*messages, *done.output, {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
assert client.responses.create(**ask | {"input": said}, tools=tools, tool_choice="none").output_text
