"""The prefix cache in a folder: found again by another process, and no file that is wrong is used."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, cache_folder
from tests.engine import models
from tests.engine.test_saved import content, used, write

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "logprobs": 2, "max_tokens": 6}
PROMPTS = [[(i * k + k) % 50 for i in range(200)] for k in (1, 3, 7)]


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2", "deepseek_v3"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("folder"))


def load(path: Path, **options: Any) -> Model:
    return Model.load(path, threads=2, prefix_cache=True, **options)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.sequence"), key=lambda file: file.stat().st_mtime)


def filled(path: Path, folder: Path, prompts: list[list[int]] = PROMPTS, limit: int = 1 << 40) -> list[Any]:
    with load(path) as model:
        found = [content(model.generate(prompt, **GREEDY)) for prompt in prompts]
        assert model.save_cache(folder, limit) == len(files(folder))
    return found


def test_it_is_found_again_with_the_same_bits(path: Path, tmp_path: Path) -> None:
    expected = filled(path, tmp_path)
    assert files(tmp_path)
    with load(path) as model:
        assert model.load_cache(tmp_path) == len(files(tmp_path))
        for prompt, result in zip(PROMPTS, expected, strict=True):
            done = model.generate(prompt, **GREEDY)
            assert content(done) == result and done.timings.cached_tokens == len(prompt) - 1
        model.clear_cache()
        assert used(model) == 0


def test_what_a_longer_one_has_is_removed(tmp_path: Path) -> None:
    path, folder, prompt = models.write(tmp_path, "llama_gqa"), tmp_path / "cache", PROMPTS[0]
    with load(path) as model:
        for length in (80, 150, 200):
            model.generate(prompt[:length], max_tokens=1, temperature=0, ignore_eos=True)
            assert model.save_cache(folder) == 1
        model.generate([7, *prompt], max_tokens=1, temperature=0, ignore_eos=True)
        assert model.save_cache(folder) == 2, "another text"
    with load(path) as model:
        assert model.load_cache(folder) == 2
        more = [*prompt, *PROMPTS[1][:80]]
        assert model.generate(more, max_tokens=1, temperature=0, ignore_eos=True).timings.cached_tokens == 200
        assert model.save_cache(folder) == 2


def test_salts_stay_apart(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    with load(path) as model:
        model.submit(prompt_ids=PROMPTS[0], cache_salt="ann\0\ud800", **GREEDY).result()
        assert model.save_cache(folder) == 1
    with load(path) as model:
        assert model.load_cache(folder) == 1
        for salt, found in (("bob", 0), ("", 0), ("ann\0\ud800", 199)):
            request = model.submit(prompt_ids=PROMPTS[0], cache_salt=salt, **GREEDY)
            request.result()
            assert request.stats.cached == found


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    filled(path, folder)
    size = files(folder)[0].stat().st_size
    assert len(files(folder)) == 3
    shutil.rmtree(folder)
    filled(path, folder, limit=int(2.5 * size))  # the first prompt's is the oldest
    with load(path) as model:
        assert model.load_cache(folder) == 2
        found = [model.generate(prompt, **{**GREEDY, "max_tokens": 1}).timings.cached_tokens for prompt in PROMPTS]
        assert found == [0, 199, 199]
        model.generate(PROMPTS[1], **GREEDY)
        model.save_cache(folder, int(1.5 * size))
    with load(path) as model:
        assert model.load_cache(folder) == 1
        assert model.generate(PROMPTS[1], **GREEDY).timings.cached_tokens == 199
    assert sum(file.stat().st_size for file in files(folder)) <= 1.5 * size
    with load(path) as model:
        model.generate(PROMPTS[2], **GREEDY)
        assert model.save_cache(folder, 100) == 0  # nothing fits


def test_a_start_finds_what_was_used_last(path: Path, tmp_path: Path) -> None:
    """With memory for some of the prompts; also where files of the others are left, from a time when they were kept."""
    prompts = [[(i * k + 1) % 50 for i in range(200)] for k in (1, 3, 7, 9, 11)]
    with load(path) as model:
        model.generate(prompts[0], **GREEDY)
        most = int(2.5 * used(model))
    with Model.load(path, threads=2, prefix_cache=most) as model:
        for i, prompt in enumerate(prompts):
            model.generate(prompt, **GREEDY)
            if i == 1:
                model.save_cache(tmp_path)
        held = [ids for _, ids in model.core.scheduler.kept()]
        model.save_cache(tmp_path)
    assert not any(ids[:200] == prompts[0] for ids in held)
    with Model.load(path, threads=2, prefix_cache=most) as model:
        model.load_cache(tmp_path)
        found = [ids for _, ids in model.core.scheduler.kept()]
    assert found and found == held[: len(found)]


def test_models_share_a_folder(tmp_path: Path) -> None:
    folder, one, other = tmp_path / "cache", models.write(tmp_path, "llama_gqa"), models.write(tmp_path, "gemma3")
    filled(one, folder, PROMPTS[:1])
    before = files(folder)
    with load(other) as model:
        assert model.load_cache(folder) == 0
        model.generate(PROMPTS[1], **GREEDY)
        assert model.save_cache(folder) >= 1
    assert set(before) < set(files(folder)), "another model's files stay"
    with load(one, kv="int8") as model:
        assert model.load_cache(folder) == 0
    size = sum(file.stat().st_size for file in files(folder))
    with load(other) as model:
        model.generate(PROMPTS[2], **GREEDY)
        model.save_cache(folder, size)  # which is a limit of all
    assert sum(file.stat().st_size for file in files(folder)) <= size


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    filled(models.write(tmp_path, "llama_gqa"), folder, PROMPTS[:1])
    assert [stat.st_mode & 0o077 for stat in (folder.stat(), files(folder)[0].parent.stat())] == [0, 0]


def test_hostile_files(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut, changed, and of other kinds: none is used, none is an error."""
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "cache"
    (expected,) = filled(path, folder, PROMPTS[:1])
    file = files(folder)[-1]
    whole, rng = file.read_bytes(), random.Random(1)
    for other in files(folder)[:-1]:
        other.unlink()
    spoilt = [whole[:n] for n in (0, 7, 12, 200, len(whole) // 2, len(whole) - 1)] + [whole + b"\0", b"{}", b"\0" * 999]
    for _ in range(40):
        changed = bytearray(whole)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        spoilt.append(bytes(changed))
    with load(path) as model:
        for data in spoilt:
            file.write_bytes(data)
            assert model.load_cache(folder) == 0 and not file.exists() and used(model) == 0
        os.mkfifo(file)
        assert model.load_cache(folder) == 0
        os.unlink(file)
        file.mkdir()
        assert model.load_cache(folder) == 0
        file.rmdir()
        (tmp_path / "elsewhere").write_bytes(whole)
        os.symlink(tmp_path / "elsewhere", file)
        assert model.load_cache(folder) == 0
        os.unlink(file)
        for name in ("../x.sequence", "a" * 64, "A" * 64 + ".sequence", "x.sequence"):
            (file.parent / os.path.basename(name)).write_bytes(whole)
        assert model.load_cache(folder) == 0
        file.write_bytes(whole)
        assert model.load_cache(folder) == 1
        assert content(model.generate(PROMPTS[0], **GREEDY)) == expected
    assert "damaged" in caplog.text or "ends" in caplog.text


def test_a_file_that_cannot_be_read_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    filled(path, folder, PROMPTS[:1])
    (file,) = files(folder)
    whole = os.open

    def refused(name: Any, *rest: Any, **more: Any) -> int:
        if name == str(file):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return whole(name, *rest, **more)

    with load(path) as model:
        monkeypatch.setattr(os, "open", refused)
        assert model.load_cache(folder) == 0
        monkeypatch.undo()
        assert "too many open files" in caplog.text
        assert model.load_cache(folder) == 1


def test_another_process_removes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the list of a folder and what follows."""
    caplog.set_level(logging.WARNING)
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    filled(path, folder)
    first, second, third = files(folder)
    draft = first.parent / f".{'a' * 64}.sequence.x.part"
    draft.write_text("x")
    whole = os.scandir

    def scandir(name: Any) -> Any:
        with whole(name) as entries:
            found = [*entries]
        draft.unlink(missing_ok=True)
        first.unlink(missing_ok=True)
        return contextlib.nullcontext(found)

    with load(path) as model:
        monkeypatch.setattr(os, "scandir", scandir)
        assert model.load_cache(folder) == 2
        list_files = cache_folder._files

        def listed(own: str) -> Any:
            found = list_files(own)
            second.unlink(missing_ok=True)
            return found

        monkeypatch.setattr(cache_folder, "_files", listed)
        assert model.save_cache(folder, third.stat().st_size) == 1
    assert files(folder) == [third] and "cannot be" not in caplog.text


def test_a_saved_context_is_none(tmp_path: Path) -> None:
    """A file of another kind under such a name."""
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    filled(path, folder, PROMPTS[:1])
    (file,) = files(folder)
    with load(path) as model, model.context() as context:
        context.append([1, 2, 3])
        context.save(file)
        assert model.load_cache(folder) == 0 and not file.exists()
        with pytest.raises(ValueError, match="folder"):
            model.save_cache("")
        with pytest.raises(TypeError, match="folder"):
            model.load_cache(3)  # type: ignore[arg-type]
    with Model.load(path, threads=1) as model, pytest.raises(ValueError, match="no prefix cache"):
        model.load_cache(folder)


def test_a_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, file = models.write(tmp_path, "llama_gqa"), tmp_path / "file"
    file.write_text("no folder")
    with load(path) as model:
        model.generate(PROMPTS[0], **GREEDY)
        assert model.save_cache(file) == 0 and model.load_cache(file) == 0
        assert model.save_cache("/proc/none/at/all") == 0 and model.load_cache(tmp_path / "absent") == 0
    assert "cannot be written" in caplog.text and file.read_text() == "no folder"


def test_too_little_memory_to_read_it(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    expected = filled(path, folder)
    with Model.load(path, threads=1, prefix_cache=1000) as model:
        assert model.load_cache(folder) == 0
    with load(path) as model, model.context() as context:
        context.append([1] * 210)
        one = used(model)
    with load(path, cache_bytes=int(1.5 * one)) as model:
        assert model.load_cache(folder) == 1  # that of last use
        assert [content(model.generate(prompt, **GREEDY)) for prompt in PROMPTS] == expected


WRITER = """
import sys
from pellucid import Model
path, folder = sys.argv[1:]
with Model.load(path, threads=1, prefix_cache=True) as model:
    for k in range(8):
        model.generate([(i * k) % 50 for i in range(400)], max_tokens=2, temperature=0)
    print("ready", flush=True)
    while True:
        model.save_cache(folder)
        for file in __import__("pathlib").Path(folder).glob("*/*.sequence"):
            file.unlink()
"""


def test_killed_while_it_writes(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    for delay in (0.0, 0.01, 0.03, 0.07):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with load(path) as model:
            whole = len(files(folder))
            assert model.load_cache(folder) == whole and len(files(folder)) == whole


def test_what_was_never_finished_is_removed(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    filled(path, folder, PROMPTS[:1])
    own = files(folder)[0].parent
    old, young, other = (
        own / name for name in (f".{'a' * 64}.sequence.x.part", f".{'b' * 64}.sequence.y.part", "z.part")
    )
    for file in (old, young, other):
        file.write_text("x")
    for file in (old, other):
        os.utime(file, (1, 1))
    with load(path) as model:
        assert model.load_cache(folder) == 1
    assert not old.exists() and young.exists() and other.exists()


def test_prefixes_that_others_have_are_not_written(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    prompts = [[*PROMPTS[0], k, k, k] for k in range(4)] + [[*PROMPTS[0], *([7] * cache_folder.WORTH)]]
    filled(path, folder, prompts)
    assert len(files(folder)) == 1


def test_one_too_large_for_the_limit_does_not_keep_out_others(tmp_path: Path) -> None:
    path, folder = models.write(tmp_path, "llama_gqa"), tmp_path / "cache"
    with load(path) as model:
        for prompt in (PROMPTS[0][:80], PROMPTS[1]):
            model.generate(prompt, **GREEDY)
        assert model.save_cache(folder) == 2
        less, more = sorted(file.stat().st_size for file in files(folder))
        assert model.save_cache(tmp_path / "other", (less + more) // 2) == 1
    with Model.load(path, threads=2, prefix_cache=(less + more) // 2) as model:
        assert model.load_cache(folder) == 1


def test_two_folders_of_one_model(tmp_path: Path) -> None:
    path, folders = models.write(tmp_path, "llama_gqa"), [tmp_path / "one", tmp_path / "two"]
    with load(path) as model:
        for folder, length in zip(folders, (80, 200), strict=True):
            model.generate(PROMPTS[0][:length], max_tokens=1, temperature=0, ignore_eos=True)
            assert model.save_cache(folder) == 1
        assert [len(files(folder)) for folder in folders] == [1, 1]
        for prompt in PROMPTS[1:]:
            model.clear_cache()
            model.generate(prompt, **GREEDY)
            model.save_cache(folders[0], files(folders[1])[0].stat().st_size + 10_000)
        known = [held for one in cache_folder._known[model.core].values() for held in one]
        assert sorted(known) == sorted(str(file) for folder in folders for file in files(folder))
