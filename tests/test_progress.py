"""Progress bars of Model.load: in notebooks, and where they are asked for."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, Tokenizer
from tests.engine import models


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model"), "llama_gqa", "F32")


class Bar:
    """tqdm's class, as far as it is used."""

    made: list[Bar] = []

    def __init__(self, *, desc: str, total: int, unit: str, unit_scale: bool) -> None:
        self.n, self.total, self.what, self.closed = 0, total, desc, 0
        Bar.made.append(self)

    def update(self, n: int) -> None:
        self.n += n

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def tqdm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Bar]]:
    Bar.made.clear()
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    yield Bar.made


def shell(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    """Makes this look like a session of IPython whose shell has these attributes."""
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(**attributes))
    monkeypatch.setitem(sys.modules, "IPython", ipython)


def test_a_bar_in_a_notebook(path: Path, tqdm: list[Bar], monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, kernel=object())
    Model.load(path, threads=1).close()
    (bar,) = tqdm
    assert (bar.what, bar.closed) == ("packing weights", 1) and bar.n == bar.total > 0
    Model.load(path, threads=1, progress=False).close()
    calls: list[tuple[int, int, str]] = []
    Model.load(path, threads=1, progress=lambda *call: calls.append(call)).close()
    assert len(tqdm) == 1 and calls[-1] == (bar.total, bar.total, "packing weights")


@pytest.mark.parametrize("session", ["Python", "IPython"])
def test_no_bar_elsewhere(path: Path, tqdm: list[Bar], monkeypatch: pytest.MonkeyPatch, session: str) -> None:
    if session == "IPython":  # in a terminal
        shell(monkeypatch)
    Model.load(path, threads=1).close()
    assert tqdm == []
    Model.load(path, threads=1, progress=True).close()
    assert len(tqdm) == 1


def test_a_bar_is_closed_when_loading_fails(tmp_path: Path, tqdm: list[Bar], monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.weights import catalog

    def resolve(source: str, *, progress: Any) -> Path:
        progress(1, 2, "downloading")
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "resolve", resolve)
    for load in (Model.load, Tokenizer.load):
        with pytest.raises(KeyboardInterrupt):
            load("smollm2-135m", progress=True)
    assert [(bar.n, bar.total, bar.closed) for bar in tqdm] == [(1, 2, 1)] * 2


def test_without_tqdm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        Model.load(path, progress=True)
    shell(monkeypatch, kernel=object())
    Model.load(path, threads=1).close()


def test_wrong_progress(path: Path) -> None:
    for wrong in (5, "yes", 1.0):
        with pytest.raises(TypeError, match="progress=.*: expected True, False or a callable"):
            Model.load(path, progress=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="progress"):
        Tokenizer.load(path, progress=1)  # type: ignore[arg-type]


def test_outside_notebooks_nothing_is_imported_for_it(path: Path) -> None:
    code = (
        "import sys; from pellucid import Model; Model.load(sys.argv[1]); "
        "print(*[m for m in ('tqdm', 'IPython', 'asyncio', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
