"""openai-agents: an agent with one tool, which it must call first, and then answers; with an output type; over
responses and chat completions, whole and in a stream."""

import asyncio
import sys

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import set_tracing_disabled as no_tracing
from pydantic import BaseModel, Field

url, name = sys.argv[1:]
no_tracing(True)
client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
called: list[str] = []


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return f"It rains in {city}."


class City(BaseModel):
    name: str = Field(max_length=20)


async def check(model) -> None:
    settings = ModelSettings(temperature=0, max_tokens=60, tool_choice="weather", parallel_tool_calls=False)
    agent = Agent(name="Clerk", instructions="Be brief.", model=model, tools=[weather], model_settings=settings)
    done = await Runner.run(agent, "How is the weather in Paris?", max_turns=4)
    kinds = [item.type for item in done.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"] and done.final_output, kinds
    first = called.copy()
    called.clear()
    stream = Runner.run_streamed(agent, "How is the weather in Paris?", max_turns=4)
    async for _ in stream.stream_events():
        pass
    assert called == first and stream.final_output == done.final_output
    called.clear()
    typed = Agent(
        name="Clerk", model=model, output_type=City, model_settings=ModelSettings(max_tokens=60, temperature=0)
    )
    found = (await Runner.run(typed, "Name a city.")).final_output
    assert isinstance(found, City)


async def main() -> None:
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        await check(kind(model=name, openai_client=client))


asyncio.run(main())
