"""The plugin for `llm`: its command, and its library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.adapters.conftest import EXAMPLES, HERE, Run, readme
from tests.embedding.cases import BY_NAME
from tests.embedding.files import load_golden, write_folder

pytestmark = pytest.mark.clients

PACKAGES = ["llm==0.36"]
USER = {"role": "user", "content": "Name a colour."}


def test_programs(environment: Callable[[list[str]], Run], smollm2: Path, tmp_path: Path) -> None:
    """The command adds the models that the program then uses."""
    base = tmp_path / "base.gguf"  # without a chat template: under another key
    base.write_bytes(smollm2.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_tempxxxx", 1))
    embedder = write_folder(BY_NAME["bert"], load_golden(BY_NAME["bert"]), tmp_path / "embedder")
    with Model.load(smollm2) as model:
        short: Any = {"temperature": 0, "max_tokens": 8}
        chat = model.chat([USER], **short).text
        text = model.generate("The capital of France is", **short).text
        talk = [{"role": "system", "content": "Be brief."}, USER]
        first = model.chat(talk, **short).text
        talk += [{"role": "assistant", "content": first}, {"role": "user", "content": "And another?"}]
        second = model.chat(talk, **short).text
    with Model.load(embedder) as model:
        rows = model.embed(["Owls hunt.", "Swallows fly south."]).tolist()
    run, user = environment(PACKAGES), str(tmp_path / "user")
    out = run(HERE / "programs" / "llm_command.py", smollm2, base, embedder, LLM_USER_PATH=user)
    assert [line.strip() for line in out.splitlines()] == [chat.strip(), "fine"]
    names = ["pellucid/ours", "pellucid/base", "pellucid/embedder"]
    printed = run(HERE / "programs" / "llm_program.py", *names, LLM_USER_PATH=user).split("\n--\n")
    assert printed[:4] == [chat, chat, first, second] and printed[5] == text
    assert json.loads(printed[6]) == rows and printed[7] == "fine\n"
    assert run("-c", readme("llm"), LLM_USER_PATH=user).strip()
    assert run(EXAMPLES / "llm_forms.py", "Maria, 40, lives in Lisbon.", LLM_USER_PATH=user).count("\t") == 1
