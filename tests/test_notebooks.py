"""docs/notebooks: the notebooks run in a kernel, and git has them without output. What a kernel shows of a figure."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pellucid import markup
from pellucid.look import pages
from tests.adapters.conftest import readme

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MOST_CELLS = 25
EXPECTED = {  # what the output of each notebook has
    "first-steps.ipynb": ["7 days", "365 days", " Rome.", " Tokyo.", " Berlin.", "' Paris'"],
    "looking-inside.ipynb": ["(31, 5, 576)", "' Paris' 0.77", "' Paris' 0.14", " Rome"],
}


@pytest.fixture
def execute(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """execute(notebook): the notebook with its output. The user's own settings of Jupyter and IPython are left out."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def run(notebook: Any) -> Any:
        resources = {"metadata": {"path": str(tmp_path)}}
        return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    return run


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def outputs(notebook: Any) -> list[list[Any]]:
    """Those of each cell of code."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def data(found: list[Any]) -> list[dict[str, Any]]:
    """The data of the results of a cell: what it shows, but for streams."""
    return [one.data for one in found if one.output_type in ("execute_result", "display_data")]


def text(found: list[Any], stream: str = "stdout") -> str:
    return "".join(one.text for one in found if one.output_type == "stream" and one.name == stream)


def test_there_are_two() -> None:
    assert [path.name for path in NOTEBOOKS] == list(EXPECTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_git_has_no_output(path: Path) -> None:
    """Nor other traces of having been run; and the file is as Jupyter writes it."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert len(notebook.cells) <= MOST_CELLS
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source
    raw = path.read_text(encoding="utf-8")
    assert raw == json.dumps(json.loads(raw), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", prose)
    assert links and all((path.parent / link).exists() for link in links)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(execute: Any, path: Path) -> None:
    """Every value at the end of a cell is shown as a picture or as HTML; only loading writes to stderr."""
    found = outputs(execute(read(path)))
    everything = "".join(text(of_cell) for of_cell in found)
    assert [words for words in EXPECTED[path.name] if words not in everything] == []
    assert "packing weights: 100%" in text(found[0], "stderr")
    assert all(text(of_cell, "stderr") == "" for of_cell in found[1:])
    shown = [one for of_cell in found[1:] for one in data(of_cell)]
    assert len(shown) >= 3
    for one in shown:
        assert "image/png" in one or "<div" in one["text/html"] or "<iframe" in one["text/html"]
        html = one.get("text/html", "")
        most = pages.NOTEBOOK if html.startswith("<iframe") else markup.MOST_BYTES
        assert len(unescape(html).encode()) <= most
        assert len(one["text/plain"].splitlines()) <= markup.MOST_LINES and "array(" not in one["text/plain"]


@pytest.mark.parametrize("first", ["", "%matplotlib inline\nimport matplotlib.pyplot"], ids=["plain", "inline"])
def test_a_figure_is_one_picture(execute: Any, first: str) -> None:
    """With and without pyplot, which Pellucid does not import."""
    cells = [
        first,
        "from pellucid import Model\nfrom pellucid.look import plots",
        "model = Model.load('smollm2-135m', progress=False)",
        "trace = model.trace('one two')",
        "plots.attention(trace, 3, 0)",
        "figure = plots.lens(trace)",
        "figure",
        "import sys; print('matplotlib.pyplot' in sys.modules)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    found = outputs(execute(notebook))
    assert text(found[2], "stderr") == ""
    assert [["image/png" in one for one in data(of_cell)] for of_cell in found[4:7]] == [[True], [], [True]]
    assert text(found[7]) == f"{bool(first)}\n"


def run(execute: Any, *cells: str, fails: bool = False) -> list[list[Any]]:
    """What the cells show, after one that loads a model. fails: the last one raises an error."""
    load = "from pellucid import Model\nmodel = Model.load('smollm2-135m', progress=False)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (load, *cells)])
    if fails:
        notebook.cells[-1].metadata.tags = ["raises-exception"]
    return outputs(execute(notebook))[1:]


def test_a_stream_shows_its_whole_completion(execute: Any) -> None:
    """In one place, which text/plain shows as well; the value of the cell is the stream, which has the result."""
    asks = "max_tokens=8, temperature=0"
    said, ended, several, plain, whole = run(
        execute,
        f"model.stream('The capital of France is', logprobs=1, {asks})",
        "print(_.result().text)",
        f"model.stream(['The capital of Italy is', 'The capital of Japan is'], {asks})",
        f"model.generate('The capital of France is', logprobs=1, {asks})",
        f"stream = model.chat([{{'role': 'user', 'content': 'Hi'}}], stream=True, {asks})\nnext(stream)\nstream",
    )
    ((shown,), (expected,), (both,), (chat,)) = map(data, (said, plain, several, whole))
    assert shown["text/html"] == expected["text/html"] and " Paris" in shown["text/html"]
    assert shown["text/plain"] == "<Stream: 8 tokens so far>"
    assert text(ended).startswith(" Paris")
    assert both["text/html"].index(" Rome") < both["text/html"].index(" Tokyo")
    assert "finish reason: length" in chat["text/html"]
    assert [text(one, "stderr") for one in (said, several, plain, whole)] == [""] * 4


def test_a_stream_that_is_interrupted_shows_what_there_is(execute: Any) -> None:
    """All of its text so far, whose end is in view. And the model is free."""
    whole = "print(model.generate('Once upon a time', max_tokens=400, stop=[], temperature=0).text)"
    interrupt = """
import os, signal, threading, time
def interrupt(tokens=model.stats().generated_tokens + 20):
    while model.stats().generated_tokens < tokens:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
model.stream('Once upon a time', max_tokens=4000, stop=[], temperature=0)"""
    expected, found = run(execute, whole, interrupt, fails=True)
    ((shown,), (error,)) = data(found), [one for one in found if one.output_type == "error"]
    assert error.ename == "KeyboardInterrupt"
    start, column, parts = shown["text/html"].partition("column-reverse")
    so_far = unescape(re.sub(r"<[^>]*>", "", parts.partition(">")[2]))
    assert column and len(so_far.split()) >= 5 and text(expected).startswith(so_far)


def test_readme(execute: Any) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(readme("pellucid.look"))])
    ((shown,),) = map(data, outputs(execute(notebook)))
    assert "image/png" in shown
