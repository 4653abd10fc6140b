"""langchain-openai: invoke, stream, batch, async, and the completions of OpenAI; structured output in both of its ways,
and tools, whole, in a stream, and in a round."""

import asyncio
import json
import sys
from functools import reduce
from operator import add

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = {"model": name, "base_url": url, "api_key": "none", "temperature": 0, "max_retries": 0}
chat = ChatOpenAI(**options, max_tokens=24)
prompt = "Name three colours."

done = chat.invoke(prompt)
assert done.content == expected["greedy"] and done.usage_metadata["output_tokens"] > 0
assert "".join(chunk.content for chunk in chat.stream(prompt)) == expected["greedy"]
assert [m.content for m in chat.batch([prompt] * 3)] == [expected["greedy"]] * 3
assert asyncio.run(chat.ainvoke(prompt)).content == expected["greedy"]
assert OpenAI(**options, max_tokens=8).invoke("The capital of France is") == expected["completion"]


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


longer = ChatOpenAI(**options, max_tokens=60)
for method in ("json_schema", "function_calling"):
    person = longer.with_structured_output(Person, method=method)
    whole = person.invoke("Invent a person.")
    assert isinstance(whole, Person)
    assert list(person.stream("Invent a person."))[-1] == whole


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=12)


@tool(args_schema=Place)
def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


asked = [HumanMessage("How is the weather in Paris?")]
calling = longer.bind_tools([weather], tool_choice="required", strict=True, parallel_tool_calls=False)
said = calling.invoke(asked)
(call,) = said.tool_calls
assert call["name"] == "weather" and set(call["args"]) == {"city"}
streamed = reduce(add, calling.stream(asked))
assert [(one["name"], one["args"]) for one in streamed.tool_calls] == [("weather", call["args"])]
result = weather.invoke(call)
assert isinstance(result, ToolMessage)
told = chat.bind_tools([weather], tool_choice="none").invoke([*asked, said, result])
assert told.content and not told.tool_calls
