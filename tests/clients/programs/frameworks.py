"""LlamaIndex, Haystack, smolagents and DSPy, by their own clients of OpenAI's interface: whole, in a stream, bound to a
schema, and as a call of a tool; DSPy whole and bound to a schema."""

import json
import sys

import dspy
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage as HaystackMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, ConfigDict, Field
from smolagents import OpenAIServerModel, Tool

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
prompt, question = "Name three colours.", "How is the weather in Paris?"


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


SHAPE = {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}}


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def llama_index() -> None:
    options = {"model": name, "api_base": url, "api_key": "none", "temperature": 0}
    options |= {"is_chat_model": True, "is_function_calling_model": True, "context_window": 8192}
    chat = OpenAILike(**options, max_tokens=24)
    asked = [ChatMessage(role="user", content=prompt)]
    assert chat.chat(asked).message.content == expected["greedy"]
    assert list(chat.stream_chat(asked))[-1].message.content == expected["greedy"]
    longer = OpenAILike(**options, max_tokens=80, should_use_structured_outputs=True)
    assert isinstance(longer.as_structured_llm(Person).complete("Invent a person.").raw, Person)
    said = longer.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=question, tool_required=True)
    (call,) = longer.get_tool_calls_from_response(said)
    assert call.tool_name == "weather"


def haystack() -> None:
    options = {"temperature": 0, "max_tokens": 24}
    pieces: list[str] = []
    common = {"model": name, "api_base_url": url, "api_key": Secret.from_token("none")}
    chat = OpenAIChatGenerator(**common, generation_kwargs=options, tools_strict=True)
    asked = [HaystackMessage.from_user(prompt)]
    assert chat.run(asked)["replies"][0].text == expected["greedy"]
    streamed = chat.run(asked, streaming_callback=lambda chunk: pieces.append(chunk.content))
    assert streamed["replies"][0].text == "".join(pieces) == expected["greedy"]
    kept = {**options, "max_tokens": 80, "response_format": Person}
    invented = chat.run([HaystackMessage.from_user("Invent a person.")], generation_kwargs=kept)
    Person.model_validate_json(invented["replies"][0].text)
    forced = {**options, "max_tokens": 80, "tool_choice": "required", "parallel_tool_calls": False}
    tools = [create_tool_from_function(weather)]
    said = chat.run([HaystackMessage.from_user(question)], generation_kwargs=forced, tools=tools)
    (call,) = said["replies"][0].tool_calls
    assert call.tool_name == "weather"


class Weather(Tool):
    name = "weather"
    description = "The weather of a city."
    inputs = {"city": {"type": "string", "description": "its name"}}
    output_type = "string"

    def forward(self, city: str) -> str:
        return f"It rains in {city}."


def smolagents() -> None:
    model = OpenAIServerModel(name, api_base=url, api_key="none", temperature=0)
    asked = [{"role": "user", "content": prompt}]
    assert model.generate(asked, max_tokens=24).content == expected["greedy"]
    pieces = model.generate_stream(asked, max_tokens=24)
    assert "".join(piece.content or "" for piece in pieces) == expected["greedy"]
    invent = [{"role": "user", "content": "Invent a person."}]
    Person.model_validate_json(model.generate(invent, response_format=SHAPE, max_tokens=80).content)
    said = model.generate([{"role": "user", "content": question}], tools_to_call_from=[Weather()], max_tokens=80)
    (call, *_) = said.tool_calls
    assert call.function.name == "weather"


def of_dspy() -> None:
    lm = dspy.LM(f"openai/{name}", api_base=url, api_key="none", temperature=0, max_tokens=24, cache=False)
    assert lm(prompt)[0] == expected["greedy"]
    Person.model_validate_json(lm("Invent a person.", response_format=SHAPE, max_tokens=80)[0])


llama_index()
haystack()
smolagents()
of_dspy()
