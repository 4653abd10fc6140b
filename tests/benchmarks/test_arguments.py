"""Wrong arguments of the programs in benchmarks/ are usage errors, before anything is loaded or measured."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks import arguments

HERE = str(Path(__file__).parent)
PYTHON = sys.executable


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("abi3", "--repeat 0", "--repeat: '0': expected 1 or more"),
        ("app", "--repeat 0", "--repeat: '0': expected 1 or more"),
        ("bandwidth", "--rows 0", "--rows: '0': expected 1 or more"),
        ("builds", f"--other {PYTHON} --rounds 0", "--rounds: '0': expected 1 or more"),
        ("builds", f"--other {PYTHON} --rounds 1 --starts 1", "--rounds 1: expected 2 or more with a single start"),
        ("builds", "--other /nowhere/python", "--other: '/nowhere/python': expected a program"),
        ("page", "--tokens 0", "--tokens: '0': expected 1 or more"),
        ("page", "--clicks 1", "--clicks 1: expected 2 or more, for percentiles"),
        ("peaks", "--seconds x", "--seconds: 'x': expected 1 or more"),
        ("peers", "any --phase cold --phase at0", "--phase 'at0': the phases are prefill 512, "),
        ("peers", "any --peer llama_cpp=/nowhere/python", "'/nowhere/python' is not a program"),
        ("peers", "any --json /nowhere/x.json", "--json: '/nowhere/x.json': expected a file that can be written"),
        ("peers", f"any --into {HERE}", f"--into: '{HERE}': expected a file that can be read and written"),
        ("peers", "any --into /nowhere/x.md", "--into: '/nowhere/x.md': expected a file"),
        ("plots", "any --repeat 0", "--repeat: '0': expected 1 or more"),
        ("plots", "any --out /nowhere", "--out: '/nowhere': expected a folder"),
        ("plots", "--from /nowhere/speed.json", "--from /nowhere/speed.json: "),
        ("serve", "any --json /nowhere/x.json", "--json: '/nowhere/x.json': expected a file that can be written"),
        ("serve", "any --into /nowhere/x.md", "--into: '/nowhere/x.md': expected a file"),
        ("serve", f"any --peer llama_server={HERE}", "expected llama_server=PATH of a program"),
        ("shapes", "llama-3.2-1b q4_0 /nowhere/x.gguf", "out: '/nowhere/x.gguf': expected a file that can be written"),
        ("share", "any --repeat 0", "--repeat: '0': expected 1 or more"),
        ("situations", "any --json /nowhere/x.json", "--json: '/nowhere/x.json': expected a file that can be written"),
        ("speculate", "--plot /nowhere/x.svg", "--plot: '/nowhere/x.svg': expected a file that can be written"),
        ("structured", "--callers 1 0", "--callers: '0': expected 1 or more"),
        ("structured", "--json /nowhere/x.json", "--json: '/nowhere/x.json': expected a file that can be written"),
        ("turns", "--repeat 0", "--repeat: '0': expected 1 or more"),
    ],
)
def test_wrong_arguments(
    name: str, given: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given.split()])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"schema": 2, "phases": []})])
@pytest.mark.parametrize("option", ["--from", "--serve"])
def test_plots_of_another_document(option: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("benchmarks.plots").main([option, str(path), "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert f"{option} {path}: " in capsys.readouterr().err


def test_what_is_right(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    assert arguments.target(str(path)) == path and arguments.folder(str(tmp_path)) == tmp_path
    with pytest.raises(ArgumentTypeError):
        arguments.page(str(path))
    path.touch()
    assert arguments.target(str(path)) == arguments.page(str(path)) == path
    assert arguments.count("3") == 3 and arguments.program("sh") == "sh"
    for wrong in (arguments.target, arguments.page, arguments.folder, arguments.program, arguments.count):
        with pytest.raises(ArgumentTypeError):
            wrong("")
