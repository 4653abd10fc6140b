"""pydantic-ai: text, output types by a schema and by tools, and tools beside a schema, over chat completions and
responses; whole and in a stream."""

import asyncio
import json
import sys

from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
provider = OpenAIProvider(base_url=url, api_key="none")


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=12)
    degrees: int = Field(ge=-9, le=40)


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


class Called(Exception):
    """Ends a run in which the model would call a tool again and again."""


def ask(city: str) -> str:
    """Asks somebody there."""
    raise Called(city)


async def check(model) -> None:
    settings = {"temperature": 0, "max_tokens": 200, "parallel_tool_calls": False}
    brief = Agent(model, model_settings={**settings, "max_tokens": 24})
    assert (await brief.run("Name three colours.")).output == expected["greedy"]
    async with brief.run_stream("Name three colours.") as stream:
        assert await stream.get_output() == expected["greedy"]
    prompt = "How is the weather in Paris? It is 20 degrees."
    for output in (ToolOutput(Weather), NativeOutput(Weather)):
        agent = Agent(model, output_type=output, model_settings=settings)
        found = (await agent.run(prompt)).output
        assert isinstance(found, Weather)
        async with agent.run_stream(prompt) as stream:
            assert await stream.get_output() == found
    beside = Agent(model, tools=[ask], output_type=NativeOutput(Weather), model_settings=settings)
    try:
        assert isinstance((await beside.run(prompt)).output, Weather)
    except Called:  # which the model chose instead
        pass
    called = Agent(model, output_type=weather, model_settings=settings)  # a call of it ends the run
    assert (await called.run(prompt)).output.startswith("It rains in ")


async def main() -> None:
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        await check(kind(name, provider=provider))


asyncio.run(main())
