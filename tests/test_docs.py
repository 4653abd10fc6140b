"""docs/ is correct: its programs run, its command line is the real one, and it describes every error."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pellucid import Model, errors

DOCS = Path(__file__).resolve().parent.parent / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def programs(name: str) -> list[tuple[str, str]]:
    """(heading, code) of each Python block of a page."""
    found: list[tuple[str, str]] = []
    heading = name
    for title, block in re.findall(r"^#+ ([^\n]*)$|^```python\n(.*?)^```$", text(name), re.M | re.S):
        heading = title or heading
        if block:
            found.append((heading, block))
    assert found
    return found


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(code, id=f"{name}: {title}")
        for name in ("index.md", "embedding.md")
        for title, code in programs(name)
    ],
)
def test_programs_run(program: str, smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_line", DOCS / "command_line.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_is_the_real_one() -> None:
    """To update the page: python docs/command_line.py."""
    from pellucid.cli.app import COMMANDS

    page = generator().page()
    assert text("command-line.md") == page
    assert re.findall(r"^## pellucid (\w+)$", page, re.M) == list(COMMANDS)
    assert "`--threads N`" in page and "`-m, --model MODEL`" in page


def sections() -> dict[str, str]:
    parts = re.split(r"^## `(\w+)`$", text("troubleshooting.md").partition("\n## Without")[0], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_error_has_an_example_a_cause_and_a_cure() -> None:
    assert set(sections()) == set(errors.__all__) - {"ArgumentError"}  # the base of two, never raised itself
    for name, section in sections().items():
        (example,) = re.findall(r"^```text\n(.+?)\n```$", section, re.M | re.S)
        assert example and "**Cause.**" in section and "**Cure.**" in section, name


def test_examples_are_what_is_said(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples that are quick to produce; of messages that differ between machines, the beginning."""
    model = Model.load(smollm2, context=64)

    def busy() -> None:
        context = model.context()
        stream = context.stream("a")
        next(stream)
        context.append("b")

    def cut() -> None:
        (tmp_path / "model.gguf").write_bytes(smollm2.read_bytes()[:30_000_000])
        Model.load("model.gguf")

    def closed() -> None:
        model.close()
        model.generate("a")

    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: model.generate("word " * 100),
        lambda: model.generate("a\ud800"),
        lambda: Model.load("model.gguf"),
        lambda: Model.load("owner/name"),
        lambda: Model.load(smollm2, isa="abacus"),
        busy,
        cut,
        closed,
    ):
        with pytest.raises(errors.PellucidError) as caught:
            call()
        said = str(caught.value)
        assert said.partition(": scalar")[0] in sections()[type(caught.value).__name__]


def test_every_page_is_in_the_navigation() -> None:
    settings = (DOCS.parent / "mkdocs.yml").read_text()
    assert {page.name for page in DOCS.glob("*.md")} == set(re.findall(r": ([\w-]+\.md)$", settings, re.M))
