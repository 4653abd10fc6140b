"""anthropic for Python: tools in rounds, whole and as events."""

import sys

import anthropic

url, name = sys.argv[1:]
client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
tool = {"name": "weather", "description": "The weather of a city.", "input_schema": schema}
messages = [{"role": "user", "content": "How is the weather in Paris?"}]
ask = {"model": name, "max_tokens": 200, "messages": messages, "tools": [tool], "extra_body": {"temperature": 0}}

for choice in ({"type": "any"}, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}):
    done = client.messages.create(**ask, tool_choice=choice)
    calls = [block for block in done.content if block.type == "tool_use"]
    assert done.stop_reason == "tool_use" and calls, done
    assert all(call.name == "weather" and set(call.input) == {"city"} and call.id for call in calls), done
    with client.messages.stream(**ask, tool_choice=choice) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds and final.stop_reason == "tool_use"
    assert [(b.name, b.input) for b in final.content if b.type == "tool_use"] == [(c.name, c.input) for c in calls]

results = [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."} for call in calls]
said = [*messages, {"role": "assistant", "content": done.content}, {"role": "user", "content": results}]
last = client.messages.create(**ask | {"messages": said}, tool_choice={"type": "none"})
assert last.stop_reason in ("end_turn", "max_tokens") and all(block.type == "text" for block in last.content)
assert client.messages.count_tokens(model=name, messages=said, tools=[tool]).input_tokens > 50
