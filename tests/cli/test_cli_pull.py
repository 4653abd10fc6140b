"""`pellucid pull`: licences, terms, hubs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.cli import options
from pellucid.errors import FetchError
from pellucid.weights import catalog
from tests.weights.server import Hub

from .conftest import COMMAND, Run, error_line

TERMS = "https://ai.google.dev/gemma/terms"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> Iterator[Hub]:
    """A hub with a tiny model under a permissive licence, and the same under terms; an empty cache."""
    server = Hub()
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    server.model("o/free", {"tiny.gguf": tiny.read_bytes()}, license="mit")
    server.model("o/terms", {"tiny.gguf": tiny.read_bytes()}, license="gemma", license_link=TERMS)
    yield server
    server.stop()


def test_terms_need_yes_where_nobody_can_be_asked(run: Run, tmp_path: Path) -> None:
    done = run("pull", "gemma3-270m", PELLUCID_CACHE=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, b"")
    shown, error = done.stderr.decode().splitlines()
    assert "Licence: Gemma terms of use" in shown and TERMS in shown
    assert TERMS in error and "give --yes to accept them" in error
    assert list(tmp_path.iterdir()) == []


def test_terms_are_not_accepted_by_using_a_model(run: Run, tmp_path: Path) -> None:
    done = run("generate", "The", "-m", "gemma3-270m", PELLUCID_CACHE=str(tmp_path))
    assert done.returncode == 1
    line = error_line(done)
    assert "Gemma terms of use" in line and TERMS in line and line.endswith("run `pellucid pull gemma3-270m`")
    assert list(tmp_path.iterdir()) == []


def test_a_permissive_licence_is_named_and_not_asked(run: Run, tmp_path: Path) -> None:
    """`generate` prints one line about the model it downloads; offline, it fails with a line naming the command."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    done = run("generate", "The", PELLUCID_CACHE=str(tmp_path), **nowhere)
    said, error = done.stderr.decode().splitlines()
    assert (done.returncode, said) == (1, "downloading smollm2-135m (98.4 MB); licence: Apache-2.0")
    assert error.startswith("pellucid: offline: run `pellucid pull smollm2-135m` when")
    assert [p.name for p in tmp_path.iterdir()] == [".smollm2-135m.lock"]


def test_pull_from_a_hub_and_use_it(run: Run, served: Hub) -> None:
    done = run("pull", "o/free", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["name"], shown["licence"]) == ("o/free", "mit") and Path(shown["path"]).name == "tiny.gguf"
    assert "Licence: mit" in done.stderr.decode()
    served.stop()
    assert run("info", "-m", "o/free").returncode == 0
    served.__post_init__()
    error = error_line(run("info", "-m", "o/terms"))
    assert error == "pellucid: o/terms is not a file, and was not downloaded yet: run `pellucid pull o/terms`"


def test_terms_of_a_hubs_model(run: Run, served: Hub) -> None:
    done = run("pull", "o/terms")
    assert done.returncode == 2 and f"(gemma, {TERMS}): give --yes" in done.stderr.decode()
    assert not catalog.cache_folder().exists()
    assert run("pull", "o/terms", "--yes").returncode == 0
    assert run("pull", "o/terms").returncode == 0  # here already: nothing to accept


@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"\xff\n", 1), (b"\x04", 1), (b"\x03", 130)]
)
def test_asked_on_a_terminal(served: Hub, answer: bytes, code: int) -> None:
    controller, terminal = os.openpty()
    start = "import os, sys; os.setsid(); import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    command = [sys.executable, "-c", start + "from pellucid.cli import main; sys.exit(main(['pull', 'o/terms']))"]
    assert COMMAND[0] == sys.executable
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(controller, 4096)
    os.write(controller, answer)
    out, _ = process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == code
    assert out.endswith(b"tiny.gguf\n") is (code == 0)
    assert f"Accept these terms ({TERMS})?".encode() in said


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("20G", 20 * 10**9),
        ("500M", 5 * 10**8),
        ("1.5GiB", 3 << 29),
        ("1kb", 1000),
        ("7", 7),
        ("7B", 7),
        ("2t", 2 * 10**12),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert options.nbytes("--max-bytes", text) == nbytes


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "20 G B", "20X", "nan", "9" * 5000, "\u0665G", "0"])
def test_sizes_that_are_not(call: Run, text: str) -> None:
    done = call("pull", "o/free", f"--max-bytes={text}")
    assert done.returncode == 2 and "--max-bytes=" in error_line(done) and "such as 20G or 500M" in error_line(done)


def test_limits_and_verification(call: Run, served: Hub, tiny: Path) -> None:
    size = tiny.stat().st_size
    done = call("pull", "o/free", "--max-bytes", str(size - 1))
    assert done.returncode == 1 and "of --max-bytes" in done.stderr.decode()
    done = call("pull", "o/free", f"--max-bytes={size}", "--min-rate=0")
    path = Path(done.stdout.decode().strip())
    data = path.read_bytes()
    path.write_bytes(bytes(size))
    assert call("pull", "o/free", "--no-verify").returncode == 0 and path.read_bytes() != data
    done = call("pull", "o/free")
    assert done.returncode == 0 and path.read_bytes() == data
    assert "tiny.gguf is not what was published: downloading it again" in done.stderr.decode()


def test_http_without_checksum(call: Run, served: Hub, tiny: Path) -> None:
    served.files["/x.gguf"] = tiny.read_bytes()
    url = f"{served.url}/x.gguf"
    assert "give --sha256" in error_line(call("pull", url)) and served.requests == []
    assert call("pull", url, "--insecure").returncode == 0


def test_the_catalogue_takes_the_same_limits(call: Run, served: Hub) -> None:
    done = call("pull", "--max-bytes", "1M")
    assert (
        done.returncode == 1
        and "smollm2-135m needs 98.4 MB, more than the 1.0 MB of --max-bytes" in done.stderr.decode()
    )


def test_wrong_options(call: Run, served: Hub) -> None:
    assert "--sha256='x': expected 64" in error_line(call("pull", "o/free", "--sha256", "x"))
    assert "the catalogue has its own" in error_line(call("pull", "--sha256", "x"))
    for name in ("o/free@../x:y", "o/" + "n" * 400, "a/b/c", "/"):
        assert "names no model: expected OWNER/NAME" in error_line(call("pull", name))
    with pytest.raises(FetchError, match="no model is called"):
        catalog.fetch("x")
