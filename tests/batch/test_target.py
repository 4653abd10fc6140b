"""OUT: its lines whatever happens, and files of others."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.batch.target import Target
from pellucid.cli import main
from pellucid.errors import PellucidError
from tests.batch.rows import by_id, command, ids_rows, lines, write


def test_what_is_there_is_kept(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(12)), tmp_path / "out.jsonl"
    done = ["batch", str(source), str(target), "-m", str(tiny)]
    assert main(done) == 0
    whole = target.read_bytes()
    assert main(done) == 0 and target.read_bytes() == whole
    assert "12 done before, 0 now" in capsys.readouterr().err
    first = whole.index(b"\n") + 1
    for torn in (
        whole[:-1],
        whole[:-20],
        whole + b'{"id":"row',
        whole + b"{",
        whole + b"\0" * 700,
        whole[:-3] + b"\0\0\0",
        whole + b"\n\0\0\n\0",
    ):
        target.write_bytes(torn)
        assert main(done) == 0
        assert sorted(target.read_bytes().splitlines()) == sorted(whole.splitlines())
    for blank in (b"\n", b"\r\n", b"\n\0\0\n"):  # an empty line is no end
        target.write_bytes(spaced := whole[:first] + blank + whole[first:])
        assert main(done) == 0 and target.read_bytes() == spaced
    assert "12 done before, 0 now" in capsys.readouterr().err


def test_files_of_others_are_left_alone(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(2)), tmp_path / "out.jsonl"
    for text in (
        b"dear diary\n",
        b"dear diary",
        b"\ndear diary\nmore\n",
        b'{"name": 1}\n',
        b'{"name": "package", "version": 1}',
        b"{\n",
        b"[1]\n" * 3,
        b'{"id": [1]}\nmore\n',
        b'{"id":1}\n\0\0{"id":2}\n',
        b'{"id":1}\n\nmore',
        b"7",
        b'"id"',
    ):
        target.write_bytes(text)
        assert main(["batch", str(source), str(target), "-m", str(tiny)]) == 1
        assert target.read_bytes() == text
        assert "expected an object with an id" in " ".join(capsys.readouterr().err.split())
    assert main(["batch", str(source), str(tmp_path), "-m", str(tiny)]) == 1
    assert main(["batch", str(source), "/dev/null", "-m", str(tiny)]) == 1
    assert main(["batch", str(source), str(source), "-m", str(tiny)]) == 2
    assert "expected another file" in capsys.readouterr().err


def test_lines_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id":0}')  # whole, but for its end
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Target(str(path)) as target:
        target.write({"id": 1})
        assert lines(path) == [{"id": 0}, {"id": 1}] and not synced
        later = time.monotonic() + 1.5
        monkeypatch.setattr(time, "monotonic", lambda: later)
        target.write({"id": 2})
        assert synced == [path.stat().st_size]
        target.write({"id": 3})
        assert len(lines(path)) == 4 and len(synced) == 1
    assert synced[1:] == [path.stat().st_size]


def test_a_failed_sync_takes_back_what_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with Target(str(path)) as target:
        target.write({"id": 1})
        target.flush()
        target.write({"id": 2})
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(PellucidError, match="out.jsonl: input/output error"):
            target.flush()
    assert lines(path) == [{"id": 1}]


def test_one_process_writes(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(2)), tmp_path / "out.jsonl"
    with Target(str(target)):
        assert main(["batch", str(source), str(target), "-m", str(tiny)]) == 1
    assert "another process is writing this file" in " ".join(capsys.readouterr().err.split())


def test_a_file_system_without_locks(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(2)), tmp_path / "out.jsonl"
    for number, ended in ((errno.ENOSYS, 0), (errno.ENOLCK, 0), (errno.EIO, 1)):

        def flock(*_: object, number: int = number) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(fcntl, "flock", flock)
        assert main(["batch", str(source), str(target), "-m", str(tiny)]) == ended
        assert ("without locks: let no other process" in " ".join(capsys.readouterr().err.split())) == (ended == 0)
    assert len(by_id(target)) == 2


def kills(source: Path, target: Path, tiny: Path, n: int, seed: int) -> int:
    """Starts it until it ends by itself, and kills it n times before -> how often it was killed in the middle."""
    rng, killed = random.Random(seed), 0
    for _ in range(n):
        with subprocess.Popen(command(source, target, "-m", tiny), stderr=subprocess.DEVNULL) as process:
            before = target.stat().st_size if target.exists() else 0
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                if target.exists() and target.stat().st_size > before + rng.randint(0, 3000):
                    break
                time.sleep(0.002)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert subprocess.run(command(source, target, "-m", tiny), capture_output=True).returncode == 0
    return killed


@pytest.mark.parametrize(("n", "rows"), [(4, 400), pytest.param(50, 2000, marks=pytest.mark.nightly)])
def test_killed_at_any_moment(n: int, rows: int, tiny: Path, tmp_path: Path) -> None:
    source, target, calm = write(tmp_path / "in.jsonl", ids_rows(rows)), tmp_path / "out", tmp_path / "calm"
    assert main(["batch", str(source), str(calm), "-m", str(tiny)]) == 0
    assert kills(source, target, tiny, n, rows) > 0
    assert len(by_id(target)) == rows
    assert sorted(target.read_bytes().splitlines()) == sorted(calm.read_bytes().splitlines())


def test_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(300)), tmp_path / "out.jsonl"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from pellucid.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["batch", source, target, "-m", tiny]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1 and "file too large" in done.stderr.lower() and len(done.stderr.splitlines()) == 1
    assert target.read_bytes() == b"" or target.read_bytes().endswith(b"\n")
    assert main(list(map(str, arguments))) == 0
    assert len(by_id(target)) == 300


def test_ctrl_c_keeps_what_is_done(tiny: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(20_000)), tmp_path / "out.jsonl"
    with subprocess.Popen(command(source, target, "-m", tiny), stderr=subprocess.PIPE, text=True) as process:
        while not (target.exists() and target.stat().st_size > 4000):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130
    assert 20 < len(by_id(target)) < 20_000
