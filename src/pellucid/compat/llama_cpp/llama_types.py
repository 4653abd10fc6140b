"""The types of arguments and results. Results have the keys that llama-cpp-python gives them."""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = [
    "ChatCompletionChunk",
    "ChatCompletionFunction",
    "ChatCompletionLogprobToken",
    "ChatCompletionLogprobs",
    "ChatCompletionMessageToolCall",
    "ChatCompletionMessageToolCallChunk",
    "ChatCompletionRequestAssistantMessage",
    "ChatCompletionRequestMessage",
    "ChatCompletionRequestMessageContentPart",
    "ChatCompletionRequestResponseFormat",
    "ChatCompletionRequestSystemMessage",
    "ChatCompletionRequestToolMessage",
    "ChatCompletionRequestUserMessage",
    "ChatCompletionResponseChoice",
    "ChatCompletionResponseMessage",
    "ChatCompletionStreamResponseChoice",
    "ChatCompletionStreamResponseDelta",
    "ChatCompletionStreamResponseDeltaEmpty",
    "ChatCompletionTool",
    "ChatCompletionToolChoiceOption",
    "Completion",
    "CompletionChoice",
    "CompletionChunk",
    "CompletionLogprobs",
    "CompletionUsage",
    "CreateChatCompletionResponse",
    "CreateChatCompletionStreamResponse",
    "CreateCompletionResponse",
    "CreateCompletionStreamResponse",
    "CreateEmbeddingResponse",
    "Embedding",
    "EmbeddingUsage",
]

Object = dict[str, Any]

# ---- what goes in -----------------------------------------------------------------------------------------------

ChatCompletionFunction = Object
ChatCompletionRequestAssistantMessage = Object
ChatCompletionRequestMessage = Object
ChatCompletionRequestMessageContentPart = Object
ChatCompletionRequestResponseFormat = Object
ChatCompletionRequestSystemMessage = Object
ChatCompletionRequestToolMessage = Object
ChatCompletionRequestUserMessage = Object
ChatCompletionTool = Object
ChatCompletionToolChoiceOption = Any
ChatCompletionMessageToolCall = Object

# ---- what comes out ---------------------------------------------------------------------------------------------


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    index: int
    object: str
    embedding: list[Any]


class CreateEmbeddingResponse(TypedDict):
    object: str
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class CompletionUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(TypedDict):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(TypedDict):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class CreateCompletionStreamResponse(TypedDict):
    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]


class CreateCompletionResponse(CreateCompletionStreamResponse):
    usage: CompletionUsage


class ChatCompletionLogprobToken(TypedDict):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[Object]


class ChatCompletionLogprobs(TypedDict):
    content: list[ChatCompletionLogprobToken] | None
    refusal: None


class ChatCompletionResponseMessage(TypedDict, total=False):
    role: str
    content: str | None
    tool_calls: list[Object]
    function_call: Object


class ChatCompletionResponseChoice(TypedDict):
    index: int
    message: ChatCompletionResponseMessage
    logprobs: ChatCompletionLogprobs | None
    finish_reason: str | None


class CreateChatCompletionResponse(TypedDict):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatCompletionResponseChoice]
    usage: CompletionUsage


class ChatCompletionMessageToolCallChunk(TypedDict):
    index: int
    id: str
    type: str
    function: Object


class ChatCompletionStreamResponseDelta(TypedDict, total=False):
    role: str | None
    content: str | None
    function_call: Object | None
    tool_calls: list[ChatCompletionMessageToolCallChunk] | None


class ChatCompletionStreamResponseDeltaEmpty(TypedDict):
    pass


class ChatCompletionStreamResponseChoice(TypedDict):
    index: int
    delta: ChatCompletionStreamResponseDelta | ChatCompletionStreamResponseDeltaEmpty
    logprobs: ChatCompletionLogprobs | None
    finish_reason: str | None


class CreateChatCompletionStreamResponse(TypedDict):
    id: str
    model: str
    object: str
    created: int
    choices: list[ChatCompletionStreamResponseChoice]


Completion = CreateCompletionResponse
CompletionChunk = CreateCompletionStreamResponse
ChatCompletionChunk = CreateChatCompletionStreamResponse
