"""What is refused: statuses, codes and places of errors; keys, hosts, origins and content types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import PellucidError
from pellucid.server import body as bodies
from pellucid.server.access import Hosts, Key, is_host, is_origin, read_keys
from pellucid.server.app import make_app
from pellucid.server.failures import STATUSES, Failure
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings
from tests.server.client import call

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
Make = Callable[..., Gate]


@pytest.fixture
def make(model: Model) -> Iterator[Make]:
    """Makes applications with settings of their own."""
    services = []

    def made(**settings: Any) -> Gate:
        services.append(Service(Settings(names=("m",), **settings), model))
        return make_app(services[-1])

    yield made
    for service in services:
        service.close()


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        (CHAT, {"messages": None}, "messages", None),
        (CHAT, {"messages": []}, "messages", None),
        (CHAT, {"messages": "Hi"}, "messages", None),
        (CHAT, {"messages": [3]}, "messages[0]", None),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0]", None),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content", None),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", None),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            None,
        ),
        (CHAT, {"temperature": -1}, "temperature", None),
        (CHAT, {"temperature": "hot"}, "temperature", None),
        (CHAT, {"temperature": True}, "temperature", None),
        (CHAT, {"max_tokens": -1}, "max_tokens", None),
        (CHAT, {"max_tokens": None, "max_completion_tokens": 1.5}, "max_completion_tokens", None),
        (CHAT, {"max_completion_tokens": 2, "max_tokens": 3}, "max_tokens", None),
        (CHAT, {"n": 9}, "n", None),
        (CHAT, {"n": 0}, "n", None),
        (CHAT, {"stream": "yes"}, "stream", None),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options", None),
        (CHAT, {"stream": True, "stream_options": 3}, "stream_options", None),
        (CHAT, {"stream": True, "stream_options": {"include_usage": 3}}, "stream_options.include_usage", None),
        (CHAT, {"top_logprobs": 3}, "top_logprobs", None),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
        (CHAT, {"logprobs": 3}, "logprobs", None),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias", None),
        (CHAT, {"logit_bias": {"1": 101}}, "logit_bias[1]", None),
        (CHAT, {"logit_bias": {"3": 1, "49152": 1}}, "logit_bias[49152]", None),
        (CHAT, {"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", None),
        (CHAT, {"presence_penalty": 101}, "presence_penalty", None),
        (CHAT, {"repetition_penalty": 101}, "repetition_penalty", None),
        (CHAT, {"repetition_penalty": -1}, "repetition_penalty", None),
        (CHAT, {"repetition_penalty": 1, "repeat_penalty": 1}, "repetition_penalty", None),
        (CHAT, {"stop": ["a"] * 17}, "stop", None),
        (CHAT, {"stop": ["a" * 257]}, "stop[0]", None),
        (CHAT, {"stop": 3}, "stop", None),
        (CHAT, {"stop_token_ids": [49152]}, "stop_token_ids[0]", None),
        (CHAT, {"seed": 2**64}, "seed", None),
        (CHAT, {"seed": [1]}, "seed", None),
        (CHAT, {"samplers": ["nix"]}, "samplers[0]", None),
        (CHAT, {"mirostat": 1}, "mirostat", None),
        (CHAT, {"priority": -1}, "priority", "priority_not_allowed"),
        (CHAT, {"model": 3}, "model", None),
        (CHAT, {"chat_template_kwargs": []}, "chat_template_kwargs", None),
        (CHAT, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", None),
        (CHAT, {"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs", None),
        (CHAT, {"documents": 3}, "documents", None),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format.type", None),
        (CHAT, {"tool_choice": "required"}, "tool_choice", None),
        (CHAT, {"audio": {"voice": "x"}}, "audio", "unsupported_field"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities", "unsupported_field"),
        (CHAT, {"web_search_options": {}}, "web_search_options", "unsupported_field"),
        (CHAT, {"chat_template": "x"}, "chat_template", "unsupported_field"),
        (COMPLETIONS, {"prompt": []}, "prompt", None),
        (COMPLETIONS, {"prompt": [[]]}, "prompt[0]", None),
        (COMPLETIONS, {"prompt": 3}, "prompt", None),
        (COMPLETIONS, {"prompt": ["a", 3]}, "prompt[1]", None),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]", None),
        (COMPLETIONS, {"prompt": [1, -1]}, "prompt[1]", None),
        (COMPLETIONS, {"prompt": ["a"] * 65}, "prompt", None),
        (COMPLETIONS, {"prompt": [[1, -1], [2]]}, "prompt[0][1]", None),
        (COMPLETIONS, {"prompt": [[1], [2, 2**31]]}, "prompt[1][1]", None),
        (COMPLETIONS, {"prompt": [[1, "a"]]}, "prompt[0][1]", None),
        (COMPLETIONS, {"prompt": ["ok", "\ud800"]}, "prompt[1]", None),
        (CHAT, {"echo": True}, "echo", "unsupported_field"),
        (CHAT, {"return_token_ids": True}, "return_token_ids", "unsupported_field"),
        (CHAT, {"add_special_tokens": True}, "add_special_tokens", "unsupported_field"),
        (COMPLETIONS, {"add_special_tokens": False}, "add_special_tokens", "unsupported_field"),
        (COMPLETIONS, {"allowed_token_ids": [1]}, "allowed_token_ids", "unsupported_field"),
        (COMPLETIONS, {"n_probs": 3}, "n_probs", "unsupported_field"),
        (COMPLETIONS, {"n_predict": 3}, "n_predict", None),  # beside max_tokens
        (COMPLETIONS, {"repeat_last_n": -2}, "repeat_last_n", None),
        (COMPLETIONS, {"repeat_last_n": 1, "repeat_last": 1}, "repeat_last_n", None),
        (COMPLETIONS, {"dry_sequence_breakers": 3}, "dry_sequence_breakers", None),
        (COMPLETIONS, {"logprobs": 21}, "logprobs", None),
        (COMPLETIONS, {"best_of": 2}, "best_of", "unsupported_field"),
        (COMPLETIONS, {"suffix": "x"}, "suffix", "unsupported_field"),
        (COMPLETIONS, {"echo": 1}, "echo", None),
    ],
)
def test_fields(app: Gate, path: str, fields: dict[str, Any], param: str, code: str | None) -> None:
    body = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hi"}
    answer = call(app, "POST", path, {**body, "max_tokens": 1, **fields})
    assert answer.status == 400, answer.body
    assert (answer.error["param"], answer.error["code"]) == (param, code), answer.error
    assert answer.error["type"] == "invalid_request_error" and answer.error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("best_of", 1), ("suffix", ""), ("modalities", ["text"]), ("response_format", {"type": "text"}), ("stop", [])]
    + [("tools", []), ("tool_choice", "none"), ("stop", ""), ("temperature", None), ("min_tokens", 0)]
    + [("echo", False), ("add_special_tokens", False), ("n_probs", 0), ("lora", []), ("reasoning_format", "auto")]
    + [("repeat_last_n", -1), ("dry_penalty_last_n", -1), ("dry_sequence_breakers", ["a"])],
)
def test_values_that_change_nothing_are_accepted(app: Gate, field: str, value: Any) -> None:
    answer = call(app, "POST", CHAT, {"messages": MESSAGES, "max_tokens": 1, field: value})
    assert answer.status == 200 and "pellucid-ignored" not in answer.headers, answer.body


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "line 1"),
        (b"{", "line 1"),
        (b"[]", "an object"),
        (b"3", "an object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "double precision"),
        (b'{"a": [[[-1e999]]]}', "double precision"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 61 + b"]" * 61 + b"}", "60 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "60 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "60 deep"),
        (b'{"a": [' + b"1," * 1_000_000 + b"1]}", "values"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
)
def test_json(app: Gate, raw: bytes, what: str) -> None:
    answer = call(app, "POST", CHAT, raw)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    assert what in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, "max_tokens": 1}),
        ("/v1/tokenize", {"content": "a"}),
        ("/v1/detokenize", {"tokens": [1]}),
        ("/v1/apply-template", {"messages": MESSAGES}),
    ],
)
def test_fields_that_nobody_knows(app: Gate, make: Make, path: str, body: dict[str, Any]) -> None:
    answer = call(app, "POST", path, {**body, "nonsense": 1})
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, "nonsense")
    answer = call(make(strict=True), "POST", path, {**body, "nonsense": 1})
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "nonsense", "unknown_field")


def test_what_an_assistant_refused_with_is_text(app: Gate) -> None:
    asked, more = {"role": "user", "content": "Hi"}, {"max_tokens": 4, "temperature": 0}
    texts = set()
    for said in (
        {"content": "No."},
        {"content": None, "refusal": "No."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {"content": "No.", "refusal": "said elsewhere"},
    ):
        turns = [asked, {"role": "assistant", **said}, asked]
        answer = call(app, "POST", CHAT, {"messages": turns, **more})
        assert answer.status == 200, answer.body
        used = answer.json["usage"]["prompt_tokens"]
        texts.add((answer.json["choices"][0]["message"]["content"], used))
    assert len(texts) == 1
    turns = [asked, {"role": "assistant", "content": [{"type": "refusal", "refusal": 3}]}, asked]
    answer = call(app, "POST", CHAT, {"messages": turns, **more})
    assert (answer.status, answer.error["param"].startswith("messages[1].content")) == (400, True)


def test_json_that_is_deep_enough() -> None:
    assert bodies.parse(b'{"a": ' + b"[" * 59 + b"]" * 59 + b"}")
    with pytest.raises(Failure, match="60 deep"):
        bodies.parse(b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}")


def test_a_full_context_in_openais_words(app: Gate) -> None:
    for stream in (False, True):
        answer = call(app, "POST", COMPLETIONS, {"prompt": [5] * 600, "stream": stream})
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert "maximum context length is 512 tokens" in answer.error["message"]
        assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (600, 512)
        assert answer.error["param"] == "prompt"
    long = [{"role": "user", "content": "word " * 3000}]
    for path, body, param in ((CHAT, {"messages": long}, "messages"), ("/v1/responses", {"input": long}, "input")):
        answer = call(app, "POST", path, body)
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert answer.error["param"] == param


def test_paths_and_methods(app: Gate) -> None:
    for method, path, status in (
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/../x", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", CHAT, 405),
        ("BREW", "/health", 405),
    ):
        answer = call(app, method, path)
        assert (answer.status, answer.error["type"] != "") == (status, True), (method, path)
    assert call(app, "GET", CHAT).headers["allow"] == "POST"


def test_unknown_models(app: Gate, make: Make) -> None:
    answer = call(app, "POST", CHAT, {"model": "gpt-9", "messages": MESSAGES})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "smollm2-135m" in answer.error["message"]
    other = make(default_model="m")
    answer = call(other, "POST", CHAT, {"model": "gpt-9", "messages": MESSAGES, "max_tokens": 1})
    assert (answer.status, answer.json["model"]) == (200, "m")


def test_strict(make: Make) -> None:
    app, body = make(strict=True), {"messages": MESSAGES, "max_tokens": 1}
    answer = call(app, "POST", CHAT, {**body, "users": "x"})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unknown_field", "users")
    for path, fields in ((CHAT, {"user": "x", "store": False}), ("/v1/messages", {"metadata": {"user_id": "x"}})):
        answer = call(app, "POST", path, {**body, **fields})  # which the interface has, and which change nothing
        assert answer.status == 200 and answer.headers["pellucid-ignored"] == ", ".join(sorted(fields))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "APPLICATION/JSON"}, 200),
        ({"content-type": 'application/json; odata=verbose; Charset="UTF8";'}, 200),
        ({"content-type": "application/json; charset=utf-8; charset=latin-1"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-length": "8000001"}, 413),
        ({"content-length": "9" * 4000}, 413),
    ],
)
def test_content_types_and_lengths(app: Gate, headers: dict[str, str], status: int) -> None:
    answer = call(app, "POST", COMPLETIONS, {"prompt": "a", "max_tokens": 1}, headers)
    assert answer.status == status


def test_many_log_probabilities_of_prompts(make: Make) -> None:
    app = make(limits=Limits(echoed=30))
    body = {"prompt": [[1, 2], [3]], "echo": True, "max_tokens": 0}
    assert call(app, "POST", COMPLETIONS, {**body, "logprobs": 9}).status == 200
    answer = call(app, "POST", COMPLETIONS, {**body, "logprobs": 10})
    assert (answer.status, answer.error["param"]) == (400, "logprobs")
    assert "33 log probabilities" in answer.error["message"]
    answer = call(app, "POST", COMPLETIONS, {**body, "logprobs": 4, "n": 3})  # each stands before every choice
    assert (answer.status, answer.error["param"]) == (400, "logprobs")
    assert "45 log probabilities" in answer.error["message"]


def test_long_bodies(app: Gate) -> None:
    answer = call(app, "POST", COMPLETIONS, b" " * 8_000_001)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (
        413,
        "invalid_request_error",
        "body_too_long",
    )
    answer = call(app, "POST", "/v1/messages", b" " * 8_000_001)
    assert (answer.status, answer.json["error"]["type"]) == (413, "request_too_large")


# ---- who may ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:1", 200),
        ("[::1]:8080", 200),
        ("a.localhost", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.2:8080", 403),
        ("0.0.0.0", 403),
        ("", 400),
        ("a b", 400),
        ("localhost:x", 400),
        ("[::1", 400),
        ("user@localhost", 400),
        ("localhost/evil", 400),
    ],
)
def test_hosts(app: Gate, host: str, status: int) -> None:
    for path in ("/health", "/v1/models"):
        assert call(app, "GET", path, headers={"host": host}).status == status


def test_hosts_of_other_addresses() -> None:
    def allowed(hosts: Hosts, host: str) -> bool:
        try:
            hosts.check({"host": [host]})
        except Failure:
            return False
        return True

    everywhere = Hosts("0.0.0.0", ("models.example",))
    for host, right in {
        "10.1.2.3:80": True,
        "models.example": True,
        "MODELS.example.": True,
        "x.example": False,
    }.items():
        assert allowed(everywhere, host) == right, host
    one = Hosts("10.1.2.3", ())
    assert allowed(one, "10.1.2.3:8080") and not allowed(one, "10.1.2.4:8080")
    assert allowed(Hosts("", ()), "anything.example")  # a Unix socket
    for bound in ("0", "::", "0:0::0"):
        assert allowed(Hosts(bound, ()), "10.1.2.3:80") and not allowed(Hosts(bound, ()), "x.example"), bound
    for spelled in ("2001:DB8:0::1", "2001:0db8::1", "2001:db8::1%eth0"):
        for hosts in (Hosts(spelled, ()), Hosts("10.1.2.3", (spelled,))):
            assert allowed(hosts, "[2001:db8::1]:80") and allowed(hosts, "[2001:DB8::0:1]"), spelled
        assert not allowed(Hosts(spelled, ()), "[2001:db8::2]"), spelled
    for name in ("models.example", "Models.example.", "a_b", "10.1.2.3", "2001:db8::1"):
        assert is_host(name) and allowed(Hosts("10.1.2.4", (name,)), f"[{name}]:80" if ":" in name else f"{name}:80")
    for origin in (
        "http://localhost:3000",
        "http://[::1]:8080",
        "https://a-b.example",
        "moz-extension://5f-0a",
        "null",
    ):
        assert is_origin(origin), origin


KEYS = (Key.of("sk-alice", "alice", -2), Key.of("sk-bob", "bob"), Key.of("sk-dave", "dave", 3))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer sk-alice"}, 200),
        ({"authorization": "bearer   sk-bob "}, 200),
        ({"x-api-key": "sk-bob"}, 200),
        ({"authorization": "Bearer sk-carol"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer sk-alic"}, 401),
        ({"authorization": "Basic sk-alice"}, 401),
        ({"authorization": "sk-alice"}, 401),
        ({"authorization": "Bearer sk-äöü".encode().decode("latin-1")}, 401),
        ({"authorization": "Bearer x", "x-api-key": "sk-bob"}, 401),
    ],
)
def test_keys(make: Make, headers: dict[str, str], status: int) -> None:
    app = make(keys=KEYS)
    for path in ("/v1/models", "/metrics", "/slots", "/nothing"):
        wanted = 404 if status == 200 and path == "/nothing" else status
        answer = call(app, "GET", path, headers=headers)
        assert answer.status == wanted, path
    assert call(app, "GET", "/health", headers=headers).status == 200
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "sk-" not in answer.error["message"]


def test_priorities_of_keys(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    submit = Model.submit

    def noted(self: Model, *arguments: Any, **options: Any) -> Any:
        given.append(options["priority"])
        return submit(self, *arguments, **options)

    monkeypatch.setattr(Model, "submit", noted)
    app = make(keys=KEYS)
    for key, priority, status in (
        *(("alice", -2, 200), ("alice", -3, 400), ("alice", None, 200), ("bob", -1, 400), ("bob", 5, 200)),
        *(("dave", None, 200), ("dave", 3, 200), ("dave", 2, 400)),
    ):
        body = {"prompt": "a", "max_tokens": 1, "priority": priority}
        answer = call(app, "POST", COMPLETIONS, body, {"authorization": f"Bearer sk-{key}"})
        assert answer.status == status, (key, priority)
    assert given == [-2, 0, 5, 3, 3]


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# all\nsk-a alice -1  # first\n\nsk-b\n")
    first, second = read_keys(str(path))
    assert (first.name, first.priority, second.name, second.priority) == ("alice", -1, "key2", 0)
    assert "sk-" not in repr(first)
    path.write_text("a key2\nb\nc#d key3#4\n# e key5\nf\tg\t# h")  # made names are nobody's; keys may have a #
    found = {key.name: key.digest for key in read_keys(str(path))}
    assert found == {name: Key.of(key).digest for key, name in zip("a b c#d f".split(), "key2 key2_ key3#4 g".split())}
    for text in ("", "# none", "a b c d", "a b c", "ä", "a\na", "a b\nc b", "a b\n" + "# \n" * 400_000):
        path.write_text(text)
        with pytest.raises(PellucidError, match="keys") as caught:
            read_keys(str(path))
        assert "sk" not in str(caught.value)


def test_origins(make: Make) -> None:
    good, bad = {"origin": "https://page.example"}, {"origin": "https://evil.example"}
    ask = {"access-control-request-method": "POST"}
    closed, opened = make(), make(origins=("https://page.example",), keys=KEYS)
    for headers in (good, bad):
        assert not [h for h in call(closed, "GET", "/health", headers=headers).headers if "access-control" in h]
        assert call(closed, "OPTIONS", CHAT, headers={**headers, **ask}).status == 405
    answer = call(opened, "OPTIONS", CHAT, headers={**good, **ask})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "https://page.example")
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert answer.headers["access-control-allow-headers"] == "authorization, *"  # without credentials, * is any other
    assert "pellucid-warning" in answer.headers["access-control-expose-headers"]
    assert call(opened, "GET", "/health", headers=good).headers["access-control-allow-origin"] == good["origin"]
    answer = call(opened, "OPTIONS", CHAT, headers={**bad, **ask})
    assert answer.status == 401 and "access-control-allow-origin" not in answer.headers
    for origin in ("null", "*", "https://page.example.evil.example", "HTTPS://page.example"):
        headers = call(opened, "GET", "/health", headers={"origin": origin}).headers
        assert "access-control-allow-origin" not in headers and headers["vary"] == "origin"


def test_while_loading() -> None:
    service = Service(Settings(names=("m",)))
    app = make_app(service)
    assert (answer := call(app, "GET", "/health")).status == 503 and answer.json == {"status": "loading"}
    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("POST", "/v1/tokenize")):
        answer = call(app, method, path, {})
        assert (answer.status, answer.error["code"]) == (503, "loading") and int(answer.headers["retry-after"]) > 0
    assert call(app, "GET", "/metrics").status == 200
    service.close()


def test_the_statuses_are_the_tables(app: Gate) -> None:
    assert json.dumps(sorted(STATUSES)) and {200, 400, 401, 403, 404, 405, 413, 415, 429, 500, 503, 504} <= STATUSES
