"""The adapter for LangChain, with LangChain itself and its own tests of integrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid import Model
from tests.adapters.conftest import EXAMPLES, HERE, ROOT, Run, lowest, readme

pytestmark = pytest.mark.clients

PACKAGES = ["langchain-core==1.8.3", "langchain-tests==1.1.9", "pytest-asyncio==1.5.0"]
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "-o", "asyncio_mode=auto"]


@pytest.fixture(scope="module")
def run(environment: Callable[[list[str]], Run]) -> Run:
    return environment(PACKAGES)


def test_standard(run: Run) -> None:
    """LangChain's own tests: of the interface, and of conversations, tools and schemas with SmolLM2."""
    assert "passed" in run(*PYTEST, HERE / "programs" / "langchain_standard.py")


def test_program(run: Run, smollm2: Path) -> None:
    with Model.load(smollm2) as model:
        chat = model.chat([{"role": "user", "content": "Name a colour."}], temperature=0, max_tokens=8).text
        text = model.generate("The capital of France is", temperature=0, max_tokens=4).text
    assert run(HERE / "programs" / "langchain_program.py", smollm2).split("\n--\n") == [
        chat,
        chat,
        text,
        chat,
        "fine\n",
    ]


def test_calls(run: Run, smollm2: Path) -> None:
    assert run(HERE / "programs" / "langchain_calls.py", smollm2, PYTHONPATH=str(ROOT)) == "fine\n"


def test_lowest(environment: Callable[[list[str]], Run], smollm2: Path) -> None:
    """The oldest release that pyproject.toml allows."""
    run = environment([lowest("langchain", "langchain-core")])
    assert run(HERE / "programs" / "langchain_calls.py", smollm2, PYTHONPATH=str(ROOT)) == "fine\n"


def test_readme(run: Run) -> None:
    assert run("-c", readme("pellucid.adapters.langchain")).strip()


def test_example(run: Run) -> None:
    titles = run(EXAMPLES / "langchain_titles.py", "Owls hunt at night.", "Swallows fly south.").splitlines()
    assert len(titles) == 2 and all(titles)
