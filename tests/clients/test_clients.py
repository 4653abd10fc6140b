"""Clients that people use, as released, against a running server: each pinned, in environments of their own, which
those share whose versions allow it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.adapters.conftest import readme
from tests.clients.conftest import HERE, NAME, Run, serving

pytestmark = pytest.mark.clients
PROGRAMS = HERE / "programs"
# By the version of openai that they take.
NEW = ["openai==3.57.0", "anthropic==2.14.0", "ollama==0.6.3", "langchain-openai==1.7.4", "llm==0.36"]
NEW += ["pydantic-ai-slim[openai]==2.68.0", "openai-agents==0.24.0"]
OLD = ["openai==2.54.0", "instructor==1.17.0", "litellm==1.110.2"]
FRAMEWORKS = ["llama-index-llms-openai-like==0.8.1", "haystack-ai==3.4.1", "smolagents[openai]==1.26.0", "dspy==3.4.1"]
CREW = ["crewai==1.15.30"]
NODE = ["openai@6.49.0"]
AI = ["ai@6.0.325", "@ai-sdk/openai-compatible@2.0.92"]  # the last versions that run on node 20
BOTH = pytest.mark.parametrize("packages", [NEW, OLD], ids=["openai 3", "openai 2"])
CLIENTS = ["openai", "anthropic", "ollama"]
SYSTEM = {"role": "system", "content": "Be brief."}
MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def expected(smollm2: Path) -> str:
    """What the library answers: greedy, with seeds 7 and 8, with a system prompt, and a completion of a text."""
    with Model.load(smollm2) as model:
        return json.dumps(
            {
                "greedy": model.chat(MESSAGES, max_tokens=24, temperature=0).text,
                "seeds": [model.chat(MESSAGES, max_tokens=24, seed=seed).text for seed in (7, 8)],
                "brief": model.chat([SYSTEM, *MESSAGES], max_tokens=24, temperature=0).text,
                "completion": model.generate("The capital of France is", max_tokens=8, temperature=0).text,
            }
        )


@pytest.mark.parametrize("lines", [readme("openai"), readme("anthropic"), readme("ollama")], ids=CLIENTS)
def test_readme(lines: str, url: str, python_client: Callable[..., Run]) -> None:
    address = url.removesuffix("/v1")
    code = lines.replace("http://127.0.0.1:8080", address)
    assert address in code and python_client(NEW)("python", "-c", code).strip()


@BOTH
def test_openai(packages: list[str], url: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(packages)
    client("python", str(PROGRAMS / "openai_client.py"), url, NAME, expected)


@BOTH
def test_openai_responses_and_embeddings(
    packages: list[str], two: str, expected: str, python_client: Callable[..., Run]
) -> None:
    client = python_client(packages)
    client("python", str(PROGRAMS / "openai_responses.py"), two, NAME, expected)


def test_anthropic(two: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    client("python", str(PROGRAMS / "anthropic_client.py"), two.removesuffix("/v1"), NAME, expected)


def test_ollama(two: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    client("python", str(PROGRAMS / "ollama_client.py"), two.removesuffix("/v1"), NAME, expected)


def test_openai_waits_as_long_as_it_is_told(smollm2: Path, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    with serving(smollm2, "--sequences", "1", "--max-waiting", "1") as url:
        client("python", str(PROGRAMS / "openai_retries.py"), url, NAME)


def test_openai_for_node(url: str, expected: str, node_client: Callable[..., Run]) -> None:
    node_client(NODE)("openai_client.js", url, NAME, expected)


def test_openai_for_node_waits_as_long_as_it_is_told(smollm2: Path, node_client: Callable[..., Run]) -> None:
    client = node_client(NODE)
    with serving(smollm2, "--sequences", "1", "--max-waiting", "1") as url:
        client("openai_retries.js", url, NAME)


def test_langchain(url: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    client("python", str(PROGRAMS / "langchain_client.py"), url, NAME, expected)


def test_litellm(url: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(OLD)
    client("python", str(PROGRAMS / "litellm_client.py"), url, NAME, expected, LITELLM_LOCAL_MODEL_COST_MAP="True")


def test_instructor(url: str, python_client: Callable[..., Run]) -> None:
    client = python_client(OLD)
    client("python", str(PROGRAMS / "instructor_client.py"), url, NAME)


def test_frameworks(url: str, expected: str, python_client: Callable[..., Run]) -> None:
    client = python_client(FRAMEWORKS)
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}
    client("python", str(PROGRAMS / "frameworks.py"), url, NAME, expected, **offline)


@pytest.mark.nightly  # a gigabyte of packages, which take minutes to install
def test_crewai(url: str, expected: str, python_client: Callable[..., Run], tmp_path: Path) -> None:
    quiet = {"HOME": str(tmp_path), "CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}
    python_client(CREW)("python", str(PROGRAMS / "crewai_client.py"), url, NAME, expected, **quiet)


def test_llm(url: str, expected: str, python_client: Callable[..., Run], tmp_path: Path) -> None:
    client = python_client(NEW)
    entry = f"- model_id: ours\n  model_name: {NAME}\n  api_base: {url}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entry)
    options = ["-m", "ours", "-o", "temperature", "0", "-o", "max_tokens", "24", "--key", "none"]
    for stream in ([], ["--no-stream"]):
        out = client("llm", *options, *stream, "Name three colours.", LLM_USER_PATH=str(tmp_path))
        assert out.strip() == json.loads(expected)["greedy"].strip()


# ---- tools and schemas ----------------------------------------------------------------------------------------------


@BOTH
def test_openai_tools(packages: list[str], url: str, python_client: Callable[..., Run]) -> None:
    client = python_client(packages)
    client("python", str(PROGRAMS / "openai_tools.py"), url, NAME)


def test_openai_tools_for_node(url: str, expected: str, node_client: Callable[..., Run]) -> None:
    node_client(NODE)("openai_tools.js", url, NAME, expected)


def test_anthropic_tools(url: str, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    client("python", str(PROGRAMS / "anthropic_tools.py"), url.removesuffix("/v1"), NAME)


def test_ollama_tools(url: str, python_client: Callable[..., Run]) -> None:
    client = python_client(NEW)
    client("python", str(PROGRAMS / "ollama_tools.py"), url.removesuffix("/v1"), NAME)


def test_pydantic_ai(url: str, expected: str, python_client: Callable[..., Run]) -> None:
    python_client(NEW)("python", str(PROGRAMS / "pydantic_ai_client.py"), url, NAME, expected)


def test_openai_agents(url: str, python_client: Callable[..., Run]) -> None:
    python_client(NEW)("python", str(PROGRAMS / "openai_agents_client.py"), url, NAME)


def test_ai_for_node(url: str, expected: str, node_client: Callable[..., Run]) -> None:
    node_client(AI)("ai_client.js", url, NAME, expected)


def test_aider(url: str, python_client: Callable[..., Run], tmp_path: Path) -> None:
    """One edit of a file. So small a model does not keep to aider's form by itself: a regular expression holds it to
    it."""
    client = python_client(["aider-chat==0.86.2"])
    (tmp_path / "hello.py").write_text("before\n")
    pattern = r"hello\.py\n```\n[a-z]{3,10}\n```\n"
    entry = {"name": f"openai/{NAME}", "edit_format": "whole", "streaming": True, "use_repo_map": False}
    entry |= {"extra_params": {"max_tokens": 64, "extra_body": {"guided_regex": pattern}}}
    (tmp_path / ".aider.model.settings.yml").write_text(json.dumps([entry]))  # which YAML holds
    options = ["--model", f"openai/{NAME}", "--openai-api-base", url, "--openai-api-key", "none", "--map-tokens", "0"]
    options += ["--model-settings-file", str(tmp_path / ".aider.model.settings.yml"), "--no-git", "--yes-always"]
    options += [f"--no-{what}" for what in ("check-update", "show-model-warnings", "show-release-notes", "pretty")]
    options.append("--analytics-disable")
    where = {"HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    client("aider", *options, "--message", "Greet.", str(tmp_path / "hello.py"), **where)
    after = (tmp_path / "hello.py").read_text()
    assert after != "before\n" and after.strip().isalpha() and after.islower()


# ---- reasoning ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reasoned(thinking: Path) -> str:
    """What the library answers, greedily, after six tokens of reasoning and those that close it."""
    with Model.load(thinking) as model:
        done = model.chat(MESSAGES, max_tokens=30, temperature=0, thinking_budget=6)
    assert done.reasoning and done.text
    return json.dumps({"reasoning": done.reasoning, "text": done.text})


def test_reasoning(thinking_url: str, reasoned: str, python_client: Callable[..., Run]) -> None:
    python_client(NEW)("python", str(PROGRAMS / "reasoning.py"), thinking_url, NAME, reasoned)


def test_litellm_reasoning(thinking_url: str, reasoned: str, python_client: Callable[..., Run]) -> None:
    program = str(PROGRAMS / "litellm_reasoning.py")
    python_client(OLD)("python", program, thinking_url, NAME, reasoned, LITELLM_LOCAL_MODEL_COST_MAP="True")


def test_ai_reasoning_for_node(thinking_url: str, reasoned: str, node_client: Callable[..., Run]) -> None:
    node_client(AI)("ai_reasoning.js", thinking_url, NAME, reasoned)
