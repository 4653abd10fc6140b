"""Requests that are wrong in every way: each gets a status of the table, and none harms what comes after."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import resource
import time
from collections import Counter
from typing import Any

import pytest

from pellucid import Model
from pellucid.openai.fields import ALIASES, OPTIONS
from pellucid.openai.refusal import OF_CHATS, REFUSED
from pellucid.server.failures import STATUSES
from pellucid.server.gate import Gate
from tests.server.client import Answer, ask
from tests.server.sockets import WAIT, request, rest, running

MESSAGES = [{"role": "user", "content": "Hi"}]
# What a good request to each endpoint has.
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/embeddings": {"input": "Hi", "pooling": "mean"},
    "/v1/rerank": {"query": "Hi", "documents": ["a", "b"]},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 2}},
    "/api/generate": {"prompt": "Hi", "options": {"num_predict": 2}},
    "/api/embed": {"input": "Hi", "pooling": "mean"},
}
PATHS = tuple(GOOD)
OTHERS = (
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/apply-template",
    "/v1/models/x",
    "/v1/responses/x",
    "/api/show",
    "/api/tags",
    "/api/pull",
    "/api/embeddings",
    "/slots",
    "/metrics",
    "/\0",
    "/v1/%00",
)
FIELDS = (
    *OPTIONS,
    *ALIASES,
    *OF_CHATS,
    *REFUSED,
    "n_predict",
    "model messages prompt n stream stream_options stop seed logit_bias logprobs top_logprobs echo priority".split(),
    "max_completion_tokens chat_template_kwargs reasoning_effort documents tools tool_choice user".split(),
    "response_format repetition_penalty stop_token_ids add_generation_prompt parallel_tool_calls".split(),
    "guided_json guided_regex guided_choice guided_grammar structured_outputs schema regex choice grammar".split(),
    "json_schema strict prediction thinking_budget thinking_token_budget".split(),
    "content tokens add_special parse_special".split(),
    "input dimensions encoding_format pooling normalize instruction query documents top_n return_documents".split(),
    "system stop_sequences thinking output_config metadata mcp_servers".split(),
    "options format think raw images context template keep_alive name truncate".split(),
    "instructions previous_response_id text reasoning include store background conversation".split(),
    "regex choice grammar schema strict json_schema structured_outputs".split(),
    "guided_json guided_regex guided_choice guided_grammar".split(),
    "prediction cache_salt thinking_budget thinking_token_budget return_token_ids pellucid_edits".split(),
)
NAMES = [name for one in FIELDS for name in ([one] if isinstance(one, str) else one)]
DEEP: Any = []
for _ in range(55):
    DEEP = [DEEP]
# What takes long to compile, or to follow, where it is a grammar, an expression or a schema.
BOMBS: tuple[Any, ...] = (
    "(a?){5000}a{5000}",
    "((a{1,1000}){1,1000}){1,1000}",
    "(.*a.{20}){1,5}",
    'start: (((("x"|"y"){0,1000}){0,1000}){0,1000}){0,1000}',
    'root ::= root root | "a" root | ',
    "start: " + "a? " * 2000 + '\na: "x" | "y"',
    [f"choice {i}" for i in range(3000)],
    {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    {"type": "string", "pattern": "^(a|b)*a(a|b){30}$", "minLength": 3000},
    {"type": "object", "properties": {f"p{i}": {} for i in range(1500)}},
    {"regex": "(a?){5000}a{5000}"},
    {"json": {"type": "array", "items": {"type": "array", "minItems": 100_000}, "minItems": 100_000}},
    {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}},
    },
    [{"type": "function", "function": {"name": "f", "parameters": {"properties": {str(i): {} for i in range(800)}}}}],
)
VALUES: tuple[Any, ...] = (
    *BOMBS,
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        8,
        2**31 - 1,
        2**31,
        2**63,
        2**64,
        -(2**70),
        10**400,
        0.5,
        -0.0,
        1e-320,
        1e308,
        1e39,
    ),
    *(
        "",
        "a",
        "\0",
        "\ud800",
        "\udfff\ud800",
        "a" * 10_000,
        "<|im_start|>",
        "<|im_end|>\n" * 20,
        "NaN",
        "auto",
        "required",
    ),
    *(
        "{{ 1/0 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "../../etc/passwd",
        "\u202e\u0300" * 50,
        "👋🏽" * 30,
        "a\r\nb: c",
    ),
    *([], {}, [None], [[]], [[1]], [1, 2, 3], [0] * 300, [0] * 5000, ["a", "b"], [{}], DEEP, [-1], [10**12], [True]),
    *({"a": 1}, {"1": 1}, {"1": 1e9}, {"-1": 0}, {"999999999": 1}, {"type": "json_object"}, {"include_usage": True}),
    [{"role": "user", "content": "<|im_start|>system\n"}],
    [{"role": "\0", "content": ["a"]}],
    [{"role": "tool", "content": None, "tool_calls": [{"function": {"arguments": "{"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
    [{"role": "user", "content": "a"}] * 200,
    [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text"}]}]}],
    [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "\0", "input": {"a": DEEP}}]}],
    [{"type": "function_call", "call_id": "a", "name": "b", "arguments": "{"}, {"type": "function_call_output"}],
    [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "\ud800"}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": {}, "arguments": []}}]}],
    [{"type": "text", "text": "x-anthropic-billing-header: a"}, {"type": "image"}],
    [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    [{"name": "f", "input_schema": {"type": "object", "properties": DEEP}}],
    *({"num_predict": -1e308}, {"num_ctx": DEEP, "temperature": "hot"}, {"stop": [[]]}, {"type": "enabled"}),
    *({"format": {"type": "json_schema", "schema": DEEP}}, {"effort": []}, {"type": "tool", "name": DEEP}),
)
STRUCTURES: tuple[Any, ...] = (
    *("(a{1,1000}){1,1000}", "(a|a)*b", "((a*)*)*$", "[", "(?=a)", "\\p{L}{1,5000}", "x{0,100000}", "a|" * 4000),
    *('root ::= root root | "a"', "start: start start", 'start: "a"{1,100000}', "root ::= [a-", 'start: /(/ "\0"'),
    *([str(i) for i in range(5000)], ["a" * 5000, "a" * 4999], [["a"]], [""], [3, None]),
    {"$ref": "#"},
    {"$ref": "http://127.0.0.1:9/schema"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"], "additionalProperties": False},
    {"type": "array", "minItems": 10**6, "items": {"type": "integer"}},
    {"type": "string", "pattern": "^(a+)+$", "maxLength": 10**9},
    {"enum": list(range(3000))},
    {"anyOf": [{"type": "object", "properties": {str(i): {"$ref": "#"}}} for i in range(60)]},
    {"allOf": [{"type": "object", "properties": {f"a{i}{j}": {}}} for i in range(9) for j in range(9)]},
    {"x-guidance": {"lenient": True}, "not": {}},
    {"type": "object", "properties": {"\ud800": {"const": "\udfff"}}, "required": ["\ud800"]},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}, "strict": False}},
    {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"minimum": 10**400}}}}},
    {"regex": "(a|b)*", "json": {}},
    {"json_object": True},
    {"type": "content", "content": [{"type": "text", "text": "a" * 100_000}]},
)
VALUES += STRUCTURES
HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/plain"},
    {"host": "evil.example"},
    {"host": ""},
    {"content-encoding": "br"},
    {"content-length": "99999999999999999999"},
    {"authorization": "Bearer \x80\xff"},
    {"origin": "null", "access-control-request-method": "POST"},
    {"x-request-id": "a\r\nb"},
)
CONTROL = {"prompt": "The capital of France is", "max_tokens": 6, "seed": 11, "logprobs": 2}


def body(r: random.Random, path: str) -> Any:
    """A good request with some fields replaced, and then perhaps some bytes."""
    made = dict(GOOD.get(path, GOOD[PATHS[1]]))
    for _ in range(r.choice((0, 1, 1, 1, 2, 3))):
        made[r.choice(NAMES) if r.random() < 0.95 else str(r.choice(VALUES))[:50]] = r.choice(VALUES)
    if r.random() < 0.8:
        return made
    raw = bytearray(json.dumps(made).encode()[:20_000])
    for _ in range(r.randint(1, 4)):
        at = r.randrange(len(raw))
        kind = r.randrange(4)
        if kind == 0:
            raw[at] = r.randrange(256)
        elif kind == 1:
            del raw[at : at + r.randint(1, 20)]
        elif kind == 2:
            raw[at:at] = bytes(r.choice((b"[" * 50, b'{"a":', b"9" * 100, b"\xff\xfe", b"\\ud800", b"NaN", b"1e999")))
        else:
            raw = raw[:at]
        if not raw:
            break
    return bytes(raw)


async def one(app: Gate, seed: int) -> Answer | None:
    r = random.Random(seed)
    path = r.choice(PATHS) if r.random() < 0.85 else r.choice(OTHERS)
    method = "POST" if r.random() < 0.95 else r.choice(("GET", "PUT", "OPTIONS", "HEAD", "TRACE"))
    headers = r.choice(HEADERS) if r.random() < 0.06 else {}
    leave = None
    if r.random() < 0.1:
        leave = asyncio.Event()
        asyncio.get_running_loop().call_later(r.random() * 0.05, leave.set)
    try:
        answer = await ask(app, method, path, body(r, path), headers, leave=leave)
    except Exception as error:
        raise AssertionError(f"seed {seed}") from error
    assert answer.status in STATUSES or (answer.status == 0 and leave is not None), (seed, answer)
    assert answer.status not in (500, 504), (seed, answer.body)
    if answer.status >= 400 and method != "HEAD":
        assert said(path, answer), seed
    return answer


def said(path: str, answer: Answer) -> str:
    """The message of an error, in the form of the path's clients."""
    error: Any = answer.json["error"] if path.startswith(("/api/", "/v1/messages")) else answer.error
    message: str = error if path.startswith("/api/") else error["message"]
    return message


async def many(app: Gate, first: int, n: int, at_once: int = 24) -> Counter[int]:
    found: Counter[int] = Counter()
    seeds = iter(range(first, first + n))

    async def work() -> None:
        for seed in seeds:
            answer = await one(app, seed)
            found[0 if answer is None else answer.status] += 1

    await asyncio.gather(*(work() for _ in range(at_once)))
    return found


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def kept(model: Model) -> int:
    """What is resident but for the prefix cache and compiled grammars, which may grow as far as they are allowed to."""
    until = time.monotonic() + 10  # what was cancelled leaves a pass later at most
    model.clear_cache()
    while model.stats().cache_bytes_used and time.monotonic() < until:
        time.sleep(0.01)
        model.clear_cache()
    assert model.stats().cache_bytes_used == 0
    model.core.need_tokenizer().grammars(model.core.engine.vocab)._known.clear()
    gc.collect()
    return resident()


@pytest.fixture(scope="module")
def held(app: Gate, model: Model) -> int:
    """What is resident when the first requests have been answered."""
    asyncio.run(many(app, 0, 500))
    return kept(model)


def hostile(app: Gate, model: Model, held: int, first: int, n: int) -> None:
    async def run() -> None:
        before = (await ask(app, "POST", PATHS[1], CONTROL)).json["choices"]
        found = await many(app, first, n)
        after = (await ask(app, "POST", PATHS[1], CONTROL)).json["choices"]
        assert after == before
        assert found[200] > n // 10 and found[400] > n // 4, found
        assert kept(model) < held + (50 << 20)

    asyncio.run(run())


def test_hostile_requests(app: Gate, model: Model, held: int) -> None:
    hostile(app, model, held, 500, 4500)


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, 100_000, 10_000))
def test_many_hostile_requests(app: Gate, model: Model, held: int, first: int) -> None:
    """100,000, one process for all."""
    hostile(app, model, held, first, 10_000)


def test_long_texts(app: Gate) -> None:
    async def run() -> None:
        for body in (
            {"prompt": [1] * 1_000_000},
            {"prompt": "a" * 500_000},
            {"prompt": "a b" * 100_000},
            {"messages": [{"role": "user", "content": "<|im_end|>" * 70_000}]},
            {"prompt": "\u0300" * 130_000},
            {"prompt": "a" * 7_900_000},
            {"prompt": " the" * 1_900_000},
        ):
            path = PATHS[0] if "messages" in body else PATHS[1]
            answer = await ask(app, "POST", path, body)
            assert (answer.status, answer.error["code"]) in ((400, "context_length_exceeded"), (400, "invalid_json"))

    asyncio.run(run())


def test_options_that_break_numbers_harm_that_request_alone(app: Gate) -> None:
    """The largest penalties and biases that are allowed, beside eight good requests."""
    worst = {"prompt": "a a a", "max_tokens": 8, "presence_penalty": -100, "frequency_penalty": -100}
    worst |= {"logit_bias": {"0": 100, "1": -100}, "repeat_penalty": 100, "dry_multiplier": 100, "dry_base": 1e30}

    async def run() -> None:
        good = [{**CONTROL, "seed": seed} for seed in range(8)]
        alone = [(await ask(app, "POST", PATHS[1], one)).json["choices"] for one in good]
        tasks = [ask(app, "POST", PATHS[1], one) for one in (*good, worst)]
        *beside, bad = await asyncio.gather(*tasks)
        assert [answer.json["choices"] for answer in beside] == alone
        assert bad.status in (200, 400, 500) and (bad.status != 500 or bad.error["code"] == "computation_failed")

    asyncio.run(run())


def test_hostile_bytes(model: Model) -> None:
    """Mutated requests over sockets, beside a stream that must not notice."""
    r = random.Random(5)
    good = request({"prompt": "Hi", "max_tokens": 1, "temperature": 0}, more="Connection: close\r\n")
    with running(model, header_seconds=0.5, body_seconds=0.5, idle_seconds=1) as server:
        control = server.exchange(good).rpartition(b'"choices"')[2]
        held = []
        for _ in range(150):
            raw = bytearray(good * r.choice((1, 1, 3)))
            for _ in range(r.randint(1, 5)):
                at = r.randrange(len(raw))
                if r.random() < 0.5:
                    raw[at] = r.randrange(256)
                else:
                    raw[at:at] = bytes(
                        r.choice((b"\r\n", b"\0", b"\r\n\r\n", b"Content-Length: 3\r\n", b"a" * 40_000, b"\n"))
                    )
            connection = server.connect()
            try:
                connection.sendall(raw)
            except OSError:
                pass
            held.append(connection)
        for connection in held:
            connection.settimeout(WAIT)
            answer = rest(connection)
            assert b" 500 " not in answer.partition(b"\r\n")[0]
            connection.close()
        server.settled()
        assert server.exchange(good).rpartition(b'"choices"')[2] == control
