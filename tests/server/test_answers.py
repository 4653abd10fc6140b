"""What the endpoints answer: shapes of objects and streams, and the same text as the library's."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from pellucid import Model
from pellucid.openai.shapes import CompletionObjects
from pellucid.server import operate
from pellucid.server.gate import Gate
from pellucid.server.shapes import dumps
from tests.server.client import call

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Name three colours."}]
PROMPT = "The capital of France is"


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [c for e in events[:-1] for c in e["choices"] if c["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


def test_chat_is_the_librarys(app: Gate, model: Model) -> None:
    options = {"max_tokens": 12, "seed": 7, "temperature": 1.1, "presence_penalty": 0.5, "top_k": 30}
    mine = model.chat(MESSAGES, **options)  # type: ignore[call-overload]
    answer = call(app, "POST", CHAT, {"model": "gpt-4o", "messages": MESSAGES, **options})
    assert answer.status == 200 and answer.json["object"] == "chat.completion"
    assert answer.json["model"] == "gpt-4o" and answer.json["id"].startswith("chatcmpl-")
    (choice,) = answer.json["choices"]
    message = {"role": "assistant", "content": mine.text, "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    prompt = len(mine.prompt_ids) - len(mine.ids) if len(mine.prompt_ids) > mine.prompt_tokens else mine.prompt_tokens
    used = answer.json["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (prompt, 12, prompt + 12)
    assert used["prompt_tokens_details"]["cached_tokens"] >= 0
    assert answer.json["system_fingerprint"].startswith("fp_")


def test_a_stream_is_the_whole(app: Gate) -> None:
    body = {"messages": MESSAGES, "max_tokens": 10, "seed": 3, "n": 2}
    whole = call(app, "POST", CHAT, body).json
    answer = call(app, "POST", CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = answer.events
    assert events[-1] == "[DONE]" and {e["object"] for e in events[:-1]} == {"chat.completion.chunk"}
    assert len({(e["id"], e["created"], e["model"], e["system_fingerprint"]) for e in events[:-1]}) == 1
    assert [e["choices"][0]["delta"] for e in events[:2]] == [{"role": "assistant", "content": ""}] * 2
    for choice in whole["choices"]:
        assert text_of(events, choice["index"]) == choice["message"]["content"]
        ends = [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c["index"] == choice["index"]]
        assert [reason for reason in ends if reason] == [choice["finish_reason"]]
    assert events[-2]["choices"] == [] and all(e["usage"] is None for e in events[:-2])
    without = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-2]["usage"][name] for name in without] == [whole["usage"][name] for name in without]


def test_choices_draw_with_seeds_in_a_row(app: Gate) -> None:
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 1.5, "ignore_eos": True}
    several = call(app, "POST", COMPLETIONS, {**body, "n": 3, "seed": 20}).json
    for i, choice in enumerate(several["choices"]):
        alone = call(app, "POST", COMPLETIONS, {**body, "seed": 20 + i}).json
        assert (choice["index"], choice["text"]) == (i, alone["choices"][0]["text"])
    assert several["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]  # counted once
    assert several["usage"]["completion_tokens"] == 18


def test_prompts_in_every_form(app: Gate, model: Model) -> None:
    ids = model.tokenize(PROMPT)
    body = {"max_tokens": 5, "temperature": 0}
    alone = call(app, "POST", COMPLETIONS, {**body, "prompt": PROMPT}).json["choices"][0]["text"]
    for prompt in ([PROMPT], ids, [ids]):
        (choice,) = call(app, "POST", COMPLETIONS, {**body, "prompt": prompt}).json["choices"]
        assert choice["text"] == alone
    many = call(app, "POST", COMPLETIONS, {**body, "prompt": ["Hello", PROMPT], "n": 2}).json["choices"]
    assert [choice["index"] for choice in many] == [0, 1, 2, 3]
    assert [choice["text"] for choice in many[2:]] == [alone] * 2


def test_stop_strings_and_biases(app: Gate, model: Model) -> None:
    body = {"prompt": "1, 2, 3, 4,", "max_tokens": 20, "temperature": 0}
    free = call(app, "POST", COMPLETIONS, body).json["choices"][0]
    stop = free["text"][6:9]
    (choice,) = call(app, "POST", COMPLETIONS, {**body, "stop": stop}).json["choices"]
    assert choice["text"] == free["text"][: free["text"].index(stop)] and choice["finish_reason"] == "stop"
    (word,) = model.tokenize(" Paris", add_special=False)
    body = {"prompt": "The capital of Italy is", "max_tokens": 1, "temperature": 0, "logit_bias": {str(word): 100}}
    assert call(app, "POST", COMPLETIONS, body).json["choices"][0]["text"] == " Paris"


def test_chat_log_probabilities(app: Gate, model: Model) -> None:
    body = {"messages": MESSAGES, "max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    mine = model.chat(MESSAGES, max_tokens=4, temperature=0, logprobs=3)
    (choice,) = call(app, "POST", CHAT, body).json["choices"]
    found = choice["logprobs"]["content"]
    assert [(t["token"], t["logprob"]) for t in found] == [(t.piece, t.logprob) for t in mine.logprobs]
    for token, own in zip(found, mine.logprobs, strict=True):
        assert bytes(token["bytes"]).decode() == token["token"]
        assert [(t["token"], t["logprob"]) for t in token["top_logprobs"]] == [(p, v) for _, p, v in own.top]
    body["top_logprobs"] = 0
    (choice,) = call(app, "POST", CHAT, body).json["choices"]
    assert [t["top_logprobs"] for t in choice["logprobs"]["content"]] == [[]] * 4
    events = call(app, "POST", CHAT, {**body, "stream": True}).events
    streamed = [t for e in events[:-1] for c in e["choices"] if c["logprobs"] for t in c["logprobs"]["content"]]
    assert streamed == choice["logprobs"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_echo_as_evaluations_use_it(app: Gate, model: Model, stream: bool) -> None:
    """Log probabilities of a prompt's tokens: those of `score`, to the bit, then one new token's."""
    prompts = [PROMPT, "Grüße aus 東京 👋🏽"]
    body = {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    answer = call(app, "POST", COMPLETIONS, {**body, "stream": stream})
    if stream:
        choices: list[Any] = [{"text": "", "logprobs": {}} for _ in prompts]
        for event in answer.events[:-1]:
            for part in event["choices"]:
                whole = choices[part["index"]]
                whole["text"] += part["text"]
                for name, values in part["logprobs"].items():
                    whole["logprobs"].setdefault(name, []).extend(values)
    else:
        choices = answer.json["choices"]
    for prompt, choice, score in zip(prompts, choices, model.score(prompts, top=1), strict=True):
        found = choice["logprobs"]
        assert choice["text"].startswith(prompt) and len(choice["text"]) > len(prompt)
        assert len(found["tokens"]) == len(score.ids) + 1 == len(found["top_logprobs"]) == len(found["text_offset"])
        assert found["token_logprobs"][:1] == found["top_logprobs"][:1] == [None]
        assert found["token_logprobs"][1:-1] == [token.logprob for token in score.tokens]
        for value, top, token in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], score.tokens):
            assert list(top.values()) == list(dict.fromkeys([token.top[0][2], value]))  # with the prompt's own
            assert (value == max(top.values())) == (token.id == token.top[0][0])
        assert math.isfinite(found["token_logprobs"][-1])
        pieces = [model.core.piece(id) for id in score.ids]
        before = [b"".join(pieces[:i]).decode(errors="ignore") for i in range(len(pieces) + 1)]
        assert found["text_offset"] == [len(text) for text in before]


def test_ids_of_a_completion(app: Gate, model: Model) -> None:
    """A stream has the ids of tokens that are a part of a character, too."""
    body = {"prompt": "👋🏽 🌍", "max_tokens": 30, "seed": 5, "temperature": 1.5, "return_token_ids": True}
    (whole,) = call(app, "POST", COMPLETIONS, body).json["choices"]
    events = call(app, "POST", COMPLETIONS, {**body, "stream": True}).events
    parts = [choice for event in events[:-1] for choice in event["choices"]]
    assert [id for part in parts for id in part["token_ids"]] == whole["token_ids"]
    assert any(part["token_ids"] and not part["text"] for part in parts)
    assert "".join(part["text"] for part in parts) == whole["text"]


def test_echo_keeps_a_token_that_ends_the_text(app: Gate, model: Model) -> None:
    """lm-evaluation-harness drops the last token's log probability, whatever the token was."""
    assert model.tokenizer is not None and model.tokenizer.eos is not None
    body = {"prompt": PROMPT, "max_tokens": 1, "logprobs": 1, "echo": True}
    body["logit_bias"] = {str(model.tokenizer.eos): 100}
    (choice,) = call(app, "POST", COMPLETIONS, body).json["choices"]
    assert choice["finish_reason"] == "stop" and choice["text"] == PROMPT
    assert len(choice["logprobs"]["tokens"]) == len(model.tokenize(PROMPT)) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_large_answers_are_written_in_a_thread(
    app: Gate, model: Model, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which other clients' answers go on."""
    threads: list[str] = []

    def noted(self: Any, index: int, text: str, tokens: Any) -> Any:
        threads.append(threading.current_thread().name)
        return logprobs(self, index, text, tokens)

    logprobs = CompletionObjects._logprobs
    monkeypatch.setattr(CompletionObjects, "_logprobs", noted)
    prompts = [[i] * 300 for i in (7, 8)]
    body = {"prompt": prompts, "max_tokens": 0, "logprobs": 20, "echo": True, "stream": stream}
    answer = call(app, "POST", COMPLETIONS, body)
    choices = [c for e in answer.events[:-1] for c in e["choices"]] if stream else answer.json["choices"]
    for index, score in enumerate(model.score(prompts, top=20)):
        mine = [one["logprobs"] for one in choices if one["index"] == index]
        assert [v for one in mine for v in one["token_logprobs"]][1:] == [token.logprob for token in score.tokens]
    large = [name for name in threads if name.startswith("pellucid text")]
    assert len(large) == 2
    del threads[:]
    assert call(app, "POST", COMPLETIONS, {**body, "prompt": [7] * 3}).status == 200
    assert not any(name.startswith("pellucid text") for name in threads)  # where it is not worth it


def test_echo_alone(app: Gate) -> None:
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True}
    (choice,) = call(app, "POST", COMPLETIONS, body).json["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == (PROMPT, "length", None)


def test_without_a_limit_the_context_is_the_limit(app: Gate, model: Model) -> None:
    answer = call(app, "POST", COMPLETIONS, {"prompt": [5] * 505, "ignore_eos": True}).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == model.context_length - 505 + 1


def test_models(app: Gate, model: Model) -> None:
    found = call(app, "GET", "/v1/models").json
    assert found["object"] == "list" and [card["id"] for card in found["data"]] == ["smollm2-135m", "gpt-4o"]
    card = call(app, "GET", "/v1/models/gpt-4o").json
    assert (card["id"], card["max_model_len"], card["defaults"]["top_k"]) == ("gpt-4o", 512, 40)


def test_text_and_tokens(app: Gate, model: Model) -> None:
    ids = model.tokenize("Hello there")
    for path in ("/v1/tokenize", "/tokenize"):
        for name in ("content", "prompt"):
            found = call(app, "POST", path, {name: "Hello there"}).json
            assert (found["tokens"], found["count"]) == (ids, len(ids))
    assert call(app, "POST", "/v1/detokenize", {"tokens": ids}).json["content"] == "Hello there"
    marked = {"tokens": [1, *ids, 2]}
    assert call(app, "POST", "/detokenize", marked).json["content"] == "<|im_start|>Hello there<|im_end|>"
    assert call(app, "POST", "/detokenize", {**marked, "special": False}).json["content"] == "Hello there"
    text = "Hi 👋🏽"
    both = call(app, "POST", "/tokenize", {"content": text, "with_pieces": True, "return_token_strs": True}).json
    assert [one["id"] for one in both["tokens"]] == model.tokenize(text) and both["token_strs"][0] == "Hi"
    pieces = [one["piece"] for one in both["tokens"]]
    assert pieces[0] == "Hi" and any(isinstance(piece, list) for piece in pieces)
    assert b"".join(bytes(one) if isinstance(one, list) else one.encode() for one in pieces).decode() == text
    tag = "<|im_start|>"  # content, as llama-server has it, may spell special tokens; a prompt, as vLLM has it, may not
    for name, special in (("content", True), ("prompt", False)):
        found = call(app, "POST", "/tokenize", {name: tag}).json["tokens"]
        assert found == model.tokenize(tag, parse_special=special) and (len(found) == 1) == special
    rendered = call(app, "POST", "/v1/apply-template", {"messages": MESSAGES}).json
    assert rendered == {**rendered, "prompt": model.chat_prompt(MESSAGES).text}


@pytest.mark.parametrize("field", ["content", "prompt"])
def test_a_text_without_tokens_is_named(app: Gate, field: str) -> None:
    answer = call(app, "POST", "/tokenize", {field: "a\ud83d"})
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (400, field) and error["message"].startswith(f"{field}: ")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
def test_long_answers_are_not_written_in_the_event_loop(app: Gate, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight megabytes of text become fifty of tokens with their pieces."""
    threads: list[tuple[threading.Thread, bool]] = []

    def noted(value: Any, apart: bool = False) -> bytes:
        threads.append((threading.current_thread(), apart))
        return dumps(value, apart)

    monkeypatch.setattr(operate, "dumps", noted)
    body = {"/tokenize": {"content": "Hi"}, "/detokenize": {"tokens": [5]}}.get(path, {"messages": MESSAGES})
    assert call(app, "POST", path, body).status == 200
    ((thread, apart),) = threads
    assert thread is not threading.current_thread() and apart


def test_operators_endpoints(app: Gate) -> None:
    assert call(app, "GET", "/health").json == {"status": "ok"}
    assert call(app, "GET", "/slots").json == []
    metrics = call(app, "GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'pellucid_requests_running{model="smollm2-135m"} 0.0' in metrics.body
    assert call(app, "HEAD", "/health").status == 200


def test_ignored_fields_are_named(app: Gate) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "user": "x", "metadata": {"a": "b"}, "store": None, "bad name\n": 1}
    answer = call(app, "POST", COMPLETIONS, body)
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, "metadata, user")


def test_other_names_of_options(app: Gate) -> None:
    body = {"prompt": "la la la la", "max_tokens": 6, "temperature": 0}
    own = call(app, "POST", COMPLETIONS, {**body, "repeat_penalty": 1.8, "repeat_last": 4096}).json
    other = call(app, "POST", COMPLETIONS, {**body, "repetition_penalty": 1.8}).json
    assert own["choices"] == other["choices"]
    assert own["choices"] != call(app, "POST", COMPLETIONS, body).json["choices"]
    negative = call(app, "POST", COMPLETIONS, {**body, "temperature": 2, "seed": -1}).json
    assert (
        negative["choices"]
        == call(app, "POST", COMPLETIONS, {**body, "temperature": 2, "seed": 2**64 - 1}).json["choices"]
    )


def test_the_prefix_cache_changes_the_time_alone(app: Gate) -> None:
    messages = [{"role": "user", "content": "Tell me about the river that flows through my town, please. " * 4}]
    body = {"messages": messages, "max_tokens": 5, "seed": 4, "cache_salt": "of this test"}
    first = call(app, "POST", CHAT, body).json
    second = call(app, "POST", CHAT, body).json
    assert first["choices"] == second["choices"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == second["usage"]["prompt_tokens"] - 1
    other = call(app, "POST", CHAT, {**body, "cache_salt": "another"}).json
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
