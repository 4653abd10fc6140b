"""Reasoning, apart from the answer, in clients that show it: openai, anthropic, ollama, langchain-openai, pydantic-ai,
openai-agents; whole and in a stream."""

import asyncio
import json
import sys

import anthropic
import ollama
import openai
from agents import Agent as Clerk
from agents import ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from agents import set_tracing_disabled as no_tracing
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponses
from pydantic_ai.providers.openai import OpenAIProvider

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
prompt, budget = "Name three colours.", {"thinking_budget": 6}
messages = [{"role": "user", "content": prompt}]
both = expected["reasoning"], expected["text"]

# ---- openai ----
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
chat = {"model": name, "messages": messages, "max_tokens": 30, "temperature": 0, "extra_body": budget}
done = client.chat.completions.create(**chat)
assert (done.choices[0].message.reasoning_content, done.choices[0].message.content) == both
assert done.usage.completion_tokens_details.reasoning_tokens >= 6
deltas = [c.choices[0].delta for c in client.chat.completions.create(**chat, stream=True) if c.choices]
assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == both[0]
assert "".join(d.content or "" for d in deltas) == both[1]

ask = {"model": name, "input": prompt, "max_output_tokens": 30, "temperature": 0, "extra_body": budget}
done = client.responses.create(**ask)
assert [item.type for item in done.output] == ["reasoning", "message"]
assert (done.output[0].content[0].text, done.output_text) == both
with client.responses.stream(**ask) as stream:
    events = list(stream)
thought = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
said = [e.delta for e in events if e.type == "response.output_text.delta"]
assert ("".join(thought), "".join(said)) == both
more = client.responses.create(**ask | {"input": [*messages, *done.output, {"role": "user", "content": "Why?"}]})
assert more.output_text is not None

# ---- anthropic ----
own = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=0)
ask = {"model": name, "messages": messages, "max_tokens": 30, "extra_body": {"temperature": 0}}
ask["thinking"] = {"type": "enabled", "budget_tokens": 6}
thought, said = own.messages.create(**ask).content
assert (thought.type, thought.thinking, said.text) == ("thinking", *both)
with own.messages.stream(**ask) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_message()
assert {"thinking", "text"} <= kinds and (final.content[0].thinking, final.content[1].text) == both

# ---- ollama ----
theirs = ollama.Client(host=url.removesuffix("/v1"))
options = {"num_predict": 9, "temperature": 0}
assert "thinking" in theirs.show(name).capabilities
done = theirs.chat(name, messages, think=True, options=options).message
parts = [part.message for part in theirs.chat(name, messages, think=True, options=options, stream=True)]
assert done.thinking and "".join(part.thinking or "" for part in parts) == done.thinking and not done.content
plain = theirs.chat(name, messages, think=False, options=options).message
assert plain.content and not plain.thinking

# ---- langchain-openai, which shows that of responses ----
options = {"model": name, "base_url": url, "api_key": "none", "temperature": 0, "max_retries": 0, "max_tokens": 30}
answer = ChatOpenAI(**options, use_responses_api=True, extra_body=budget).invoke(prompt)
assert [block["type"] for block in answer.content] == ["reasoning", "text"] and answer.text == both[1]
assert answer.content[0]["content"][0]["text"] == both[0]
assert ChatOpenAI(**options, extra_body=budget).invoke(prompt).content == both[1]


# ---- pydantic-ai, openai-agents ----
async def agents() -> None:
    settings = {"temperature": 0, "max_tokens": 30, "extra_body": budget}
    provider = OpenAIProvider(base_url=url, api_key="none")
    for kind in (OpenAIChatModel, PydanticResponses):
        parts = (await Agent(kind(name, provider=provider), model_settings=settings).run(prompt)).response.parts
        assert [part.part_kind for part in parts] == ["thinking", "text"] and parts[1].content == both[1], parts
        assert kind is PydanticResponses or parts[0].content == both[0], parts
    no_tracing(True)
    async_client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    given = ModelSettings(temperature=0, max_tokens=30, extra_body=budget)
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        clerk = Clerk(name="Clerk", model=kind(model=name, openai_client=async_client), model_settings=given)
        done = await Runner.run(clerk, prompt)
        assert done.final_output == both[1] and done.new_items[0].type == "reasoning_item", done.new_items
        running = Runner.run_streamed(clerk, prompt)
        async for _ in running.stream_events():
            pass
        assert running.final_output == both[1] and running.new_items[0].type == "reasoning_item"


asyncio.run(agents())
