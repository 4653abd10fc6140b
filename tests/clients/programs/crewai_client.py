"""CrewAI by its own client of OpenAI's interface: whole, in a stream, async, bound to a schema, as a call of a tool,
and a crew."""

import asyncio
import json
import sys

from crewai import LLM, Agent, Crew, Task
from crewai.events import LLMStreamChunkEvent, crewai_event_bus
from pydantic import BaseModel, ConfigDict, Field

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
prompt = "Name three colours."
common = {"model": name, "base_url": url, "api_key": "none", "temperature": 0}


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


chat = LLM(**common, max_tokens=24)
assert chat.call(prompt) == expected["greedy"]
assert asyncio.run(chat.acall(prompt)) == expected["greedy"]
assert chat.get_token_usage_summary().completion_tokens > 0

with crewai_event_bus.scoped_handlers():
    pieces: list[str] = []

    @crewai_event_bus.on(LLMStreamChunkEvent)
    def take(source: object, event: LLMStreamChunkEvent) -> None:
        pieces.append(event.chunk)

    assert LLM(**common, max_tokens=24, stream=True).call(prompt) == expected["greedy"]
    crewai_event_bus.flush()
assert len("".join(pieces)) == len(expected["greedy"])  # its threads may change their order

for stream in (False, True):
    longer = LLM(**common, max_tokens=80, stream=stream)
    assert isinstance(longer.call("Invent a person.", response_model=Person), Person)


def weather(city: str) -> str:
    return f"It rains in {city}."


parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
function = {"name": "weather", "description": "The weather of a city.", "parameters": parameters}
# It leaves to the model whether it calls a tool: here it must.
calls = LLM(**common, max_tokens=80, additional_params={"extra_body": {"tool_choice": "required"}})
asked = "How is the weather in Paris?"
tools = [{"type": "function", "function": function}]
(call, *_) = calls.call(asked, tools=tools)
assert call.function.name == "weather"
said = calls.call(asked, tools=tools, available_functions={"weather": weather})
assert said.startswith("It rains in ")

writer = Agent(role="writer", goal="Answer briefly.", backstory="You write.", llm=chat, max_iter=2)
task = Task(description=prompt, expected_output="three colours", agent=writer)
done = Crew(agents=[writer], tasks=[task]).kickoff()
assert done.raw.strip() and done.token_usage.completion_tokens > 0
