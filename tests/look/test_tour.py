"""The programs of docs/looking-inside.md print the output in the page. To update it: python docs/looking_inside.py."""

from __future__ import annotations

import codeop
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
FIGURES = {"look/lens.png", "look/attribution.png", "look/induction.png", "look/patching.png"}
MOST_BYTES = 1_000_000  # of all figures of the page


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("looking_inside", DOCS / "looking_inside.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


TOUR = _module()
PAGE = TOUR.PAGE.read_text(encoding="utf-8")
BLOCKS = TOUR.blocks(PAGE)
OF_SMOLLM = [block for block in BLOCKS if "gemma" not in block.flags]


def _ids(blocks: list[Any]) -> list[str]:
    return [f"{i}: {block.heading}" for i, block in enumerate(blocks)]


def _outputs(blocks: list[Any], folder: Path) -> dict[int, str]:
    """The output of each program of the session, whose figures go to the current folder."""
    found = dict(zip(map(id, blocks), TOUR.run(blocks, folder), strict=True))
    assert {f"look/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*")} == FIGURES
    return found


@pytest.fixture(scope="module")
def printed(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    return _outputs(OF_SMOLLM, tmp_path_factory.mktemp("tour"))


@pytest.mark.parametrize("block", OF_SMOLLM, ids=_ids(OF_SMOLLM))
def test_program(printed: dict[int, str], block: Any) -> None:
    if "measured" in block.flags:
        assert re.sub(r"[\d.]+", "0", printed[id(block)]) == re.sub(r"[\d.]+", "0", block.output)
    else:
        assert printed[id(block)] == block.output


@pytest.mark.nightly  # a minute and more
@pytest.mark.gemma
def test_programs_with_gemma(smollm2: Path, gemma3: Path, tmp_path: Path) -> None:
    outputs = _outputs(BLOCKS, tmp_path)
    found = [outputs[id(block)] for block in BLOCKS if "gemma" in block.flags]
    expected = [block.output for block in BLOCKS if "gemma" in block.flags]
    assert len(found) >= 4
    assert found == expected


def test_the_page_keeps_its_form() -> None:
    """Writing its present outputs does not change the page, and no program is overlooked."""
    outputs = iter([block.output for block in BLOCKS])
    original, TOUR.run = TOUR.run, lambda blocks, folder: outputs
    try:
        assert TOUR.page(PAGE, DOCS / "look") == PAGE
    finally:
        TOUR.run = original
    assert len(BLOCKS) == PAGE.count("\n```python\n") > 30
    assert set(re.findall(r"\]\((look/[^)]+\.png)\)", PAGE)) == FIGURES


@pytest.mark.parametrize("block", BLOCKS, ids=_ids(BLOCKS))
def test_a_program_can_be_pasted(block: Any) -> None:
    """Into Python's prompt, which reads line by line: a blank line ends a loop or a function, and nothing else does."""
    waiting: list[str] = []
    for line in [*block.code.splitlines(), ""]:
        waiting.append(line)
        if codeop.compile_command("\n".join(waiting)) is not None:
            waiting = []
    assert waiting == []


def test_the_page_says_what_it_needs_and_what_differs() -> None:
    """The second model and how to get it before its first use, and of what was measured that it differs."""
    assert "`pellucid pull gemma3-270m`" in PAGE[: PAGE.index("gemma = Model.load")]
    assert "pip install '.[plots]'" in PAGE[: PAGE.index("plots.")]
    before = PAGE.split("<!-- measured -->\n")[:-1]
    assert len(before) == sum("measured" in block.flags for block in BLOCKS) >= 3
    assert all("differ" in text.rpartition("\n```\n")[2] for text in before)


def test_figures_are_small() -> None:
    sizes = [(DOCS / name).stat().st_size for name in FIGURES]
    assert min(sizes) > 5000
    assert sum(path.stat().st_size for path in (DOCS / "look").iterdir()) < MOST_BYTES
