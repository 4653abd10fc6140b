"""The provider for litellm, with litellm itself and with DSPy, which calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid import Model
from tests.adapters.conftest import EXAMPLES, HERE, ROOT, Run, lowest, readme
from tests.embedding.cases import BY_NAME
from tests.embedding.files import load_golden, write_folder

pytestmark = pytest.mark.clients

PACKAGES = ["litellm==1.110.2", "dspy==3.4.1"]


def test_program(environment: Callable[[list[str]], Run], smollm2: Path, tmp_path: Path) -> None:
    embedder = write_folder(BY_NAME["bert"], load_golden(BY_NAME["bert"]), tmp_path / "embedder")
    with Model.load(smollm2) as model:
        chat = model.chat([{"role": "user", "content": "Name a colour."}], temperature=0, max_tokens=8).text
        text = model.generate("The capital of France is", temperature=0, max_tokens=8).text
    run = environment(PACKAGES)
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    out = run(HERE / "programs" / "litellm_program.py", smollm2, embedder, **offline)
    printed = [part.strip() for part in out[out.index(chat) :].split("\n--\n")]
    assert printed[:3] == [chat, chat, chat]
    assert printed[3].endswith(text.strip()) and printed[4].endswith("fine")  # litellm and DSPy print notes before
    out = run(HERE / "programs" / "litellm_calls.py", smollm2, PYTHONPATH=str(ROOT), **offline)
    assert out.endswith("fine\n")  # litellm prints notes before
    assert run("-c", readme("pellucid.adapters.litellm"), **offline).strip()
    assert run(EXAMPLES / "dspy_answers.py", "What is the capital of France?", **offline).strip()


def test_lowest(environment: Callable[[list[str]], Run], smollm2: Path) -> None:
    """The oldest release that pyproject.toml allows."""
    run = environment([lowest("litellm", "litellm")])
    more = {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    assert run(HERE / "programs" / "litellm_calls.py", smollm2, **more).endswith("fine\n")
