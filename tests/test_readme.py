"""The documents are correct: the README's Python runs, its plan is the real one, and every relative link exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pellucid import _engine
from tests.adapters.conftest import readme

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Files and folders named in backquotes, from the root, from src/pellucid or from csrc.
NOT_OURS = {"Python.h", "omp.h"}
NAMED = re.compile(r"`((?:[\w.]+/)+[\w.]*|\w+\.(?:py|pyx|c|h))`")


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block for name, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if name == language]


def test_python_runs(smollm2: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(" Paris.") for line in lines)
    assert lines[-1] == " Paris"
    assert code.index("model.chat([{") < code.index("model.generate(")  # what a newcomer wants comes first
    assert "template=" not in code


def test_plan_is_the_plan(smollm2: Path) -> None:
    (shown,) = blocks("")
    done = subprocess.run([sys.executable, "-m", "pellucid", "plan"], capture_output=True, text=True, timeout=60)
    assert shown == done.stdout


def test_heads_are_the_heads(smollm2: Path) -> None:
    """With AVX2 to the last digit; with others within 0.3."""
    (shown,) = blocks("text")
    command, _, expected = shown.partition("\n")
    arguments = re.fullmatch(r'\$ pellucid inspect "(.+)" --show 3 \| tail -5', command)
    assert arguments is not None
    program = [sys.executable, "-m", "pellucid", "inspect", arguments[1], "--show", "3"]
    for flags in ([], *(["--isa", name] for name, built, runs in _engine.isas() if name == "avx2" and built and runs)):
        done = subprocess.run([*program, *flags], capture_output=True, text=True, timeout=60)
        last = "".join(line + "\n" for line in done.stdout.splitlines()[-5:])
        if flags:
            assert last == expected
        assert re.sub(r"\d+\.\d+", "", last) == re.sub(r"\d+\.\d+", "", expected)
        for found, said in zip(re.findall(r"\d+\.\d+", last), re.findall(r"\d+\.\d+", expected), strict=True):
            assert abs(float(found) - float(said)) < 0.3


def test_commands_exist() -> None:
    """Every `pellucid COMMAND` that a document names exists."""
    from pellucid.cli.app import COMMANDS

    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"(?:`|&& |^)pellucid ([a-z]+)", text, re.M))
    assert "generate" in named
    assert named <= set(COMMANDS)


def test_install_lines() -> None:
    assert 'pip install . && pellucid chat "Name three colours."\n' in "".join(blocks("sh"))
    assert "pip install -e '.[test]' && pytest -n 2\n" in "".join(blocks("sh"))
    assert "git clone" in "".join(blocks("sh")) and "\ncd pellucid\n" in "".join(blocks("sh"))


def test_extras() -> None:
    """Each that a document names exists, and comes from the source, as the package itself does."""
    notebooks = (ROOT / "docs").rglob("*.ipynb")
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*DOCUMENTS, *notebooks))
    named = re.findall(r"pip install (?:-\S+ )?'?([\w.]+)\[([\w,]+)\]", text)
    assert {source for source, _ in named} == {"."}
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {extra for _, several in named for extra in several.split(",")}
    assert {"grammar", "plots", "server"} <= extras <= set(known)


def test_the_quick_subset_exists() -> None:
    (folders,) = re.findall(r"`pytest ((?:tests/\w+ ?)+)`\s+is a subset", (ROOT / "README.md").read_text())
    assert all(list((ROOT / folder).glob("test_*.py")) for folder in folders.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = [
        target
        for target in LINK.findall(text)
        if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists()
    ]
    assert broken == []


def test_files_that_documents_name() -> None:
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/architecture.md"))
    names = set(NAMED.findall(text))
    assert len(names) > 20
    places = (ROOT, ROOT / "src" / "pellucid", ROOT / "csrc")
    assert [name for name in sorted(names - NOT_OURS) if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_of_prose_are_short(path: Path) -> None:
    """But for tables, code, links to figures, and what a program writes between comments."""
    text = re.sub(
        r"^ *```.*?^ *```$|<!-- (measured).*?<!-- end -->", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert [line for line in text.splitlines() if len(line) > 120 and not re.match(r" *(\||!\[)", line)] == []


TABLES = {
    "pandas": "",
    "polars": r"shape: \(2, 2\)\n(?s:.+ text .+ more .+The sky is.+The sea is.+)",
    "pyarrow.parquet": r"\[\d+\.\d+, \d+\.\d+\]\n",
}


@pytest.mark.parametrize(("imported", "printed"), TABLES.items(), ids=TABLES)
def test_lines_for_tables_run(smollm2: Path, tmp_path: Path, imported: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-c", readme(imported)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and re.fullmatch(printed, done.stdout), done.stderr


def test_lines_for_files_of_rows_run(smollm2: Path, tmp_path: Path) -> None:
    (code,) = (block for block in blocks("sh") if "pellucid batch" in block)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(["sh", "-ec", code], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 2, run.stderr


def test_each_program_is_run() -> None:
    """By the tests of the package that it is for."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    run = {name for text in sources for name in re.findall(r'readme\("([\w.]+)"\)', text)} | {*TABLES}
    assert sorted(map(readme, run)) == sorted(blocks("py"))
