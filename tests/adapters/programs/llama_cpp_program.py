"""Packages that are built on llama-cpp-python, unchanged, on Pellucid: LangChain's community classes, LlamaIndex,
Haystack. Prints what each answers."""

from __future__ import annotations

import asyncio
import sys
import warnings

from pellucid.compat.llama_cpp import install

install()
warnings.simplefilter("ignore")  # arguments without effect, old packages

from haystack.dataclasses import ChatMessage as HaystackMessage  # noqa: E402
from haystack.dataclasses import StreamingChunk  # noqa: E402
from haystack.tools import Tool  # noqa: E402
from haystack_integrations.components.generators.llama_cpp import LlamaCppChatGenerator  # noqa: E402
from langchain_community.chat_models import ChatLlamaCpp  # noqa: E402
from langchain_community.embeddings import LlamaCppEmbeddings  # noqa: E402
from langchain_community.llms import LlamaCpp  # noqa: E402
from llama_cpp import Llama  # noqa: E402
from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.llms.llama_cpp import LlamaCPP  # noqa: E402

path = sys.argv[1]
ASK, TEXT = "Name a colour.", "The capital of France is"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}

# ---- objects of the package openai
own = Llama(path, n_ctx=512, verbose=False)
asked = {"messages": [{"role": "user", "content": ASK}], "temperature": 0, "max_tokens": 8}
whole = own.create_chat_completion_openai_v1(**asked)
assert whole.usage.completion_tokens == 8 and whole.choices[0].finish_reason == "length"
parts = [one.choices[0].delta.content for one in own.create_chat_completion_openai_v1(stream=True, **asked)]
assert "".join(part or "" for part in parts) == whole.choices[0].message.content

# ---- LangChain
chat = ChatLlamaCpp(model_path=path, temperature=0, max_tokens=8, n_ctx=512, verbose=False)
answer = chat.invoke(ASK)
assert answer.response_metadata["finish_reason"] == "length"
assert answer.content == "".join(str(chunk.content) for chunk in chat.stream(ASK))
tools = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}}]
choice = {"type": "function", "function": {"name": "weather"}}
called = chat.bind(tools=tools, tool_choice=choice, max_tokens=40).invoke(ASK)
assert called.tool_calls[0]["name"] == "weather" and set(called.tool_calls[0]["args"]) == {"city"}, called
llm = LlamaCpp(model_path=path, temperature=0, max_tokens=4, n_ctx=512, verbose=False)
text = llm.invoke(TEXT)
assert text == "".join(llm.stream(TEXT)) and llm.get_num_tokens("Hello world") == 2
bound = LlamaCpp(model_path=path, temperature=0, max_tokens=8, grammar='root ::= " London" | " Rome"', verbose=False)
assert bound.invoke(TEXT) in (" London", " Rome")
rows = LlamaCppEmbeddings(model_path=path, verbose=False).embed_documents(["Hello world"])
assert [len(row) for row in rows] == [576, 576]  # of each token, as the model does not say how it makes one
print(answer.content, text, sep="\n--\n", end="\n--\n")

# ---- LlamaIndex
index = LlamaCPP(
    model_path=path, temperature=0, max_new_tokens=4, context_window=512, verbose=False,
    completion_to_prompt=str, messages_to_prompt=lambda messages: str(messages[-1].content),
)  # fmt: skip
assert index.metadata.context_window == 512
whole = index.complete(TEXT).text
assert whole == "".join(str(part.delta) for part in index.stream_complete(TEXT))
assert whole == index.chat([ChatMessage(role="user", content=TEXT)]).message.content
print(whole, end="\n--\n")

# ---- Haystack
settings = {"temperature": 0, "max_tokens": 8}
generator = LlamaCppChatGenerator(model=path, n_ctx=512, generation_kwargs=settings)
generator.warm_up()
said = [HaystackMessage.from_user(ASK)]
reply = generator.run(said)["replies"][0]
pieces: list[StreamingChunk] = []
again = generator.run(said, streaming_callback=pieces.append)["replies"][0]
assert reply.text == again.text == "".join(piece.content for piece in pieces)
assert reply.text == asyncio.run(generator.run_async(said))["replies"][0].text
assert reply.meta["usage"]["completion_tokens"] == 8
tool = Tool(name="weather", description="The weather", parameters=WEATHER, function=lambda city: city)
more = {"tool_choice": choice, "max_tokens": 40}
for callback in (None, pieces.append):
    asked = generator.run(said, tools=[tool], generation_kwargs=more, streaming_callback=callback)["replies"][0]
    assert asked.tool_calls[0].tool_name == "weather" and set(asked.tool_calls[0].arguments) == {"city"}, asked
generator.close()
print(reply.text, end="\n--\n")
print("fine")
