"""Packed weights that processes share."""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, sharing
from pellucid.errors import ModelFileError
from tests.engine import models
from tests.families.case import load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME

IDS = [1, 2, 3, 60, 5, 7, 9, 11]
LOADED = "import gc, os, sys, time\nfrom pellucid import Model, sharing\nsharing.ROOT = {root!r}\n"
MODEL = LOADED + "model = Model.load({path!r}, share=True, threads=1)\ninfo = model.info()\n"
ANSWER = "model.generate([1, 2, 3], max_tokens=4, temperature=0, ignore_eos=True).ids"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of the test's own, in memory where it can be."""
    shm = Path(f"/dev/shm/pellucid-test-{os.getpid()}-{time.monotonic_ns()}")
    found = shm if shm.parent.is_dir() else tmp_path / "shm"
    found.mkdir()
    monkeypatch.setattr(sharing, "ROOT", str(found))
    yield found
    gc.collect()
    for path in sorted(found.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    found.rmdir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return models.write(tmp_path, "wide", "K")


def load(path: Path, **options: Any) -> Model:
    return Model.load(path, share=True, **{"threads": 2, **options})


def files(root: Path) -> list[Path]:
    gc.collect()
    return sorted(p for p in root.rglob("*") if p.is_file())


def start(code: str, root: Path, path: Path, **options: Any) -> subprocess.Popen[str]:
    text = code.format(root=str(root), path=str(path))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", text], text=True, **pipes, **options)


def run(code: str, root: Path, path: Path, **options: Any) -> str:
    process = start(code, root, path, **options)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out


def weights(model: Model) -> list[bytes]:
    engine, found = model.core.engine, list[bytes]()
    for i, _ in enumerate(engine.plan.matrices):
        engine.read_matrix(i, lambda data: found.append(bytes(data)))
    return found


def write(name: str, folder: Path) -> Path:
    if name in models.BY_NAME:
        return models.write(folder, name, "K")
    case = BY_NAME[name]
    if case.gguf is None:
        return write_folder(case, load_golden(case), folder / name)
    return write_gguf(case, load_golden(case), folder / f"{name}.gguf", "Q8_0")


@pytest.mark.parametrize("name", ["wide", "qwen2moe", "deepseek_v2", "qwen35", "lfm2moe_no_bias"])
def test_the_same_bits_as_in_memory_of_its_own(name: str, tmp_path: Path, root: Path) -> None:
    source = write(name, tmp_path)
    with Model.load(source, threads=2) as model:
        expected, bits, packed = model.logits(IDS), weights(model), model.info().packed_bytes
        assert not model.info().shared and model.info().shared_why == "not asked for"
    kept = [load(source), load(source), load(source, isa="scalar", threads=1)]  # all tiers read the same layout
    for shared in kept:
        assert shared.info().shared and shared.info().packed_bytes == packed and weights(shared) == bits
    assert [m.info().shared_why for m in kept] == ["packed by this load", *["packed by an earlier load"] * 2]
    assert len(files(root)) == 2
    assert models.same(kept[0].logits(IDS), expected) and models.same(kept[1].logits(IDS), expected)
    with Model.load(source, isa="scalar", threads=1) as own:
        assert models.same(kept[2].logits(IDS), own.logits(IDS))
    del shared, kept
    assert not files(root)


def test_weights_that_are_computed_at_load(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.write(tmp_path, "narrow")
    with Model.load(source, quantize="q8_0") as model:
        bits = weights(model)
    first, plain = load(source, quantize="q8_0"), load(source)
    assert not plain.core.engine.plan.matrices[0].type == first.core.engine.plan.matrices[0].type
    monkeypatch.setattr("pellucid.parts.Made.view", None)  # nothing is computed where it has been
    again = load(source, quantize="q8_0")
    assert weights(first) == weights(again) == bits and len(files(root)) == 4


def test_two_processes_hold_the_weights_once(path: Path, root: Path) -> None:
    code = MODEL + (
        "model.logits(list(range(40)))\nprint(info.shared_why, flush=True)\nsys.stdin.readline()\n"
        "text = open('/proc/self/smaps').read().split(sharing.ROOT)\n"
        "sizes = {{k: sum(int(part.split(k + ':')[1].split()[0]) for part in text[1:])"
        " for k in ('Rss', 'Pss', 'ShmemPmdMapped')}}\n"
        "print(info.packed_bytes, *sizes.values(), info.huge_pages, flush=True)\nsys.stdin.readline()\n"
    )
    both = [start(code, root, path)]
    assert both[0].stdout and both[0].stdout.readline() == "packed by this load\n"
    both.append(start(code, root, path))
    assert both[1].stdout and both[1].stdout.readline() == "packed by an earlier load\n"
    found = []
    for process in both:
        assert process.stdin and process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        found.append(process.stdout.readline().split())
    for process in both:
        process.communicate("\n", timeout=60)
    packed = int(found[0][0])
    assert all(int(rss) << 10 > 0.95 * packed for _, rss, *_ in found)
    assert 0.95 * packed < sum(int(pss) << 10 for _, _, pss, *_ in found) < 1.15 * packed
    if found[0][4] == "True":  # what `info` says is so
        assert int(found[0][3]) << 10 == int(found[1][3]) << 10 == packed // sharing.HUGE_PAGE * sharing.HUGE_PAGE
    assert not files(root)


def test_killed_while_packing(path: Path, root: Path) -> None:
    code = LOADED + (
        "def wait(place):\n    print('now', flush=True)\n    time.sleep(100)\n"
        "sharing.Place.finish = wait\nModel.load({path!r}, share=True)\n"
    )
    process = start(code, root, path)
    assert process.stdout and process.stdout.readline() == "now\n"
    process.kill()
    process.communicate()
    assert len(files(root)) == 2
    model = load(path)
    assert model.info().shared_why == "packed by this load"
    with Model.load(path) as own:
        assert weights(model) == weights(own)


def test_killed_at_any_moment(path: Path, root: Path) -> None:
    rng = np.random.default_rng(1)
    with Model.load(path) as own:
        expected = weights(own)
    code = LOADED + "print('now', flush=True)\nmodel = Model.load({path!r}, share=True)\n"
    for wait in rng.uniform(0, 0.15, 5):
        process = start(code, root, path)
        assert process.stdout and process.stdout.readline() == "now\n"
        time.sleep(wait)
        process.kill()
        process.communicate()
        model = load(path)
        assert model.info().shared and weights(model) == expected
        del model
        assert not files(root)


def test_another_load_waits_for_the_one_that_packs(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, packed, go = sharing.Place.finish, threading.Event(), threading.Event()

    def slow(place: Any) -> None:
        if not place.packed:
            packed.set()
            assert go.wait(60)
        finish(place)

    monkeypatch.setattr(sharing.Place, "finish", slow)
    loaded: list[Model] = []
    threads = [threading.Thread(target=lambda: loaded.append(load(path))) for _ in range(3)]
    threads[0].start()
    assert packed.wait(60)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.2)
    assert not loaded
    go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(m.info().shared_why for m in loaded) == ["packed by an earlier load"] * 2 + ["packed by this load"]


def test_one_that_never_finishes_is_not_waited_for(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.Place, "finish", lambda place: None)
    first = load(path)
    monkeypatch.setattr(sharing, "LONGEST", 0.1)
    second = load(path)
    assert first.info().shared and not second.info().shared
    assert second.info().shared_why == "another process has been packing them for too long"


def folder_of(root: Path) -> Path:
    return root / f"pellucid-{os.geteuid()}"


def refused(path: Path) -> str:
    model = load(path)
    with Model.load(path) as own:
        assert weights(model) == weights(own)
    assert not model.info().shared
    return model.info().shared_why


def test_a_foreign_folder_is_refused(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    folder_of(root).mkdir(0o700)
    assert refused(path) == f"{folder_of(root)} belongs to another user"
    assert not files(root)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: p.mkdir(), "can be used by others"),
        (lambda p: p.symlink_to(p.parent), "is not a folder"),
        (lambda p: p.write_text(""), "is not a folder"),
    ],
)
def test_an_unsafe_folder_is_refused(make: Any, why: str, path: Path, root: Path) -> None:
    before = os.umask(0o022)
    make(folder_of(root))
    os.umask(before)
    assert refused(path) == f"{folder_of(root)} {why}"


def alter(file: Path) -> None:
    with open(file, "r+b") as opened:
        opened.seek(1000)
        opened.write(b"altered")


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def replace(file: Path) -> None:
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)


@pytest.mark.parametrize("change", [alter, shorten, replace])
def test_an_altered_file_is_refused(change: Any, path: Path, root: Path) -> None:
    model = load(path)
    file, _ = files(root)
    file.chmod(0o600)
    change(file)
    assert refused(path) == f"{file} is not what was packed: it was cut short or altered"
    del model
    assert not files(root)


@pytest.mark.parametrize("change", [alter, shorten, Path.unlink])
def test_an_altered_file_that_nobody_uses_is_packed_anew(change: Any, path: Path, root: Path) -> None:
    run(MODEL + "os._exit(0)", root, path)
    file, _ = files(root)
    file.chmod(0o600)
    change(file)
    model = load(path)
    with Model.load(path) as own:
        assert model.info().shared_why == "packed by this load" and weights(model) == weights(own)


def test_links_are_not_followed(path: Path, root: Path, tmp_path: Path) -> None:
    run(MODEL + "os._exit(0)", root, path)
    file, lock = files(root)
    (tmp_path / "lock").write_bytes(lock.read_bytes())
    lock.unlink()
    lock.symlink_to(tmp_path / "lock")
    assert "symbolic" in refused(path)


def test_what_a_killed_process_left(path: Path, root: Path, tmp_path: Path) -> None:
    """Whole weights are used again; those of other models go."""
    run(MODEL + "os._exit(0)", root, path)
    assert len(files(root)) == 2
    model = load(path)
    assert model.info().shared_why == "packed by an earlier load"
    run(MODEL + "os._exit(0)", root, models.write(tmp_path, "narrow"))
    assert len(files(root)) == 4
    other = load(models.write(tmp_path, "llama_gqa"))
    assert len(files(root)) == 4
    del model, other
    assert not files(root)


def test_the_last_one_leaves_nothing(path: Path, root: Path) -> None:
    assert run(MODEL + "print(info.shared, len(os.listdir(sharing.ROOT)))", root, path) == "True 1\n"
    assert not list(root.iterdir())
    models_ = [load(path), load(path)]
    del models_[0]
    assert len(files(root)) == 2
    models_.clear()
    gc.collect()
    assert not list(root.iterdir())


def test_a_load_that_fails_leaves_nothing(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = sharing.find

    def and_cut(*arguments: Any) -> Any:
        found = find(*arguments)
        os.truncate(path, path.stat().st_size // 2)
        return found

    monkeypatch.setattr("pellucid.core.sharing.find", and_cut)
    with pytest.raises(ModelFileError, match="the file ends here"):
        load(path)
    assert not files(root)


def test_a_changed_file_is_packed_anew(path: Path, root: Path) -> None:
    first = load(path)
    os.utime(path, (1, 1))
    second = load(path)
    assert second.info().shared_why == "packed by this load" and len(files(root)) == 4
    del first
    assert len(files(root)) == 2 and second.info().shared


def test_no_room(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, n: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert refused(path).startswith(f"{root} has no room for ")
    assert not list(root.iterdir())


def test_a_limit_of_file_sizes(path: Path, root: Path) -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n" + MODEL
    assert "has no room for" in run(code + "print(info.shared_why)", root, path)
    assert not files(root)


def test_without_the_folder(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "ROOT", str(root / "none"))
    assert refused(path) == f"there is no {root / 'none'}"


def test_the_weights_cannot_be_written(path: Path, root: Path) -> None:
    """Neither where they were packed nor elsewhere; edits change plans."""
    code = MODEL + (
        "import ctypes\nimport numpy as np\n"
        "print(info.shared_why, flush=True)\n"
        "def write(data): ctypes.memset(np.frombuffer(data, np.uint8).ctypes.data, 0, 1)\n"
        "model.core.engine.read_matrix(0, write)\n"
    )
    model = load(path)
    before = files(root)[0].read_bytes()
    assert stat.S_IMODE(files(root)[0].stat().st_mode) == 0o400
    with model.edit() as edited:
        edited.scale_head(0, 0, 0.0)
        assert not np.array_equal(edited.logits(IDS), model.logits(IDS))
    assert files(root)[0].read_bytes() == before
    reader = start(code, root, path)
    assert reader.communicate(timeout=60)[0] == "packed by an earlier load\n"
    del model, edited
    assert not files(root)
    packer = start(code, root, path)
    assert packer.communicate(timeout=60)[0] == "packed by this load\n"
    assert reader.returncode == packer.returncode == -signal.SIGSEGV


def test_forks(path: Path, root: Path) -> None:
    """A child has the weights for as long as it uses them, and others find them, though its parent has ended."""
    slow = "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(0.5))\n"  # the parent ends before
    code = (
        slow + MODEL + f"expected = {ANSWER}\n"
        "if os.fork():\n    print(os.getpid(), flush=True)\n    sys.exit()\n"
        f"sys.stdin.readline()\nprint({ANSWER} == expected, flush=True)\nsys.stdin.readline()\n"
        "del model\ngc.collect()\nprint('gone', flush=True)\n"
    )
    process = start(code, root, path)
    assert process.stdin and process.stdout and process.stdout.readline()
    process.wait(60)
    assert len(files(root)) == 2
    model = load(path)
    assert model.info().shared_why == "packed by an earlier load"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "True\n"
    del model
    assert len(files(root)) == 2  # the child's
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "gone\n"
    assert not files(root)
    process.communicate()


def test_a_child_made_while_the_parent_packs(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = sharing.Place.finish

    def fork(place: Any) -> None:
        child = os.fork()
        if child == 0:
            place._finalizer()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        finish(place)

    monkeypatch.setattr(sharing.Place, "finish", fork)
    first = load(path)
    monkeypatch.undo()
    monkeypatch.setattr(sharing, "ROOT", str(root))
    assert load(path).info().shared_why == "packed by an earlier load"
    del first
    assert not files(root)


def test_a_child_of_a_child_made_while_the_parent_packs(
    path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptors that the child closed are those of other files by then, which stay open."""
    ends: list[int] = []

    def fork(place: Any) -> None:
        child = os.fork()
        if child == 0:
            for one in (place.fd, place._lock):
                os.dup2(os.open(os.devnull, os.O_RDONLY), one)
            grandchild = os.fork()
            if grandchild == 0:
                try:
                    assert os.fstat(place.fd) and os.fstat(place._lock)
                except BaseException:
                    os._exit(1)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        ends.append(os.waitpid(child, 0)[1])

    monkeypatch.setattr(sharing.Place, "finish", fork)
    load(path)
    assert ends == [0]


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pools_processes_leave_nothing(method: str, path: Path, root: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys\nfrom pellucid import Model, sharing\n"
        f"sharing.ROOT = {str(root)!r}\n"
        f"def work(i):\n    global model\n    model = Model.load({str(path)!r}, share=True, threads=1)\n"
        f"    return model.info().shared\n"
        "if __name__ == '__main__':\n"
        f"    processes = [multiprocessing.get_context({method!r}).Process(target=work, args=(i,)) for i in range(2)]\n"
        "    [p.start() for p in processes]\n    [p.join() for p in processes]\n"
        "    print([p.exitcode for p in processes])\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[0, 0]\n", done.stderr
    assert not files(root)


def test_settings(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("PELLUCID_SHARE", value)
        assert Model.load(path).info().shared is expected
    monkeypatch.setenv("PELLUCID_SHARE", "1")
    assert not Model.load(path, share=False).info().shared
    monkeypatch.setenv("PELLUCID_SHARE", "yes")
    with pytest.raises(ValueError, match="PELLUCID_SHARE='yes': expected 0 or 1"):
        Model.load(path)
    with pytest.raises(TypeError, match="share"):
        Model.load(path, share="yes")  # type: ignore[arg-type]


def test_each_numa_node_has_its_own(path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    for node, text in enumerate(("", f"1000-1003,{cpus[0]}", "1004,1006-1007")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}/cpulist").write_text(text + "\n")
    assert sharing._nodes(str(tmp_path)) == [1] and sharing._nodes(str(tmp_path / "none")) == []
    first = load(path)
    monkeypatch.setattr(sharing, "_nodes", lambda: [7])
    assert load(path).info().shared_why == "packed by this load" and first.info().shared
