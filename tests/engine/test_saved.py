"""Contexts in files: they go on with the same bits, and no file that is damaged, foreign or hostile is used."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ContextBusyError, ModelFileError, NumericsError, OutOfMemoryError
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "logprobs": 2}
NAMES = ["llama_gqa", "gemma3", "granitehybrid", "lfm2", "deepseek_v3"]


def write(name: str, folder: Path) -> Path:
    if name in BY_NAME:
        return write_gguf(BY_NAME[name], load_golden(BY_NAME[name]), folder / f"{name}.gguf")
    return models.write(folder, name)


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("saved"))


def content(done: Any) -> Any:
    return done.ids, done.logprobs, done.end


def used(model: Model) -> int:
    return int(model.core.engine.info()["cache_bytes_used"])


@pytest.mark.parametrize("kv", ["auto", "f16", "int8"])
def test_it_goes_on_with_the_same_bits(path: Path, tmp_path: Path, kv: Any) -> None:
    file = tmp_path / "context"
    for length in (0, 1, 63, 64, 65, 200):
        with Model.load(path, threads=2, kv=kv) as model, model.context() as context:
            if length:
                context.append([i % 50 for i in range(length)])
                context.generate([3], max_tokens=4, **GREEDY)  # the last token is drawn and not computed
            context.save(file)
            state = context.ids, context._sequence.length, context._sequence.extents(), used(model)
            reached = [n for n in range(length) if context._sequence.reaches(n)]
            expected = content(context.generate([1, 2], max_tokens=8, **GREEDY))
            context.rewind(length)
            back = content(context.generate([7], max_tokens=4, **GREEDY))
        with Model.load(path, threads=1, kv=kv) as model:
            context = model.open_context(file)
            opened = context._sequence
            assert (context.ids, opened.length, opened.extents()) == state[:3]
            assert [n for n in range(length) if opened.reaches(n)] == reached
            fork = context.fork()
            assert content(context.generate([1, 2], max_tokens=8, **GREEDY)) == expected
            context.rewind(length)
            assert content(context.generate([7], max_tokens=4, **GREEDY)) == back
            assert content(fork.generate([1, 2], max_tokens=8, **GREEDY)) == expected
            del opened
            fork.close()
            context.close()
            assert used(model) == 0
    assert os.listdir(tmp_path) == ["context"]


@pytest.fixture(scope="module")
def saved(path: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("file") / "context"
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append([i % 50 for i in range(150)])
        context.append([5])
        context.save(file)
    return file.read_bytes()


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    (n,) = struct.unpack("<I", data[8:12])
    return json.loads(data[12 : 12 + n]), data[12 + n + 32 :]


def whole(header: Any, rest: bytes) -> bytes:
    """A file with another header, whose digest is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    first = b"PLContxt" + struct.pack("<I", len(text)) + text
    digest = hashlib.blake2b(bytes(8) + first, digest_size=32).digest()
    return first + digest + rest


def refused(model: Model, file: Path, data: bytes) -> ModelFileError:
    file.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        model.open_context(file)
    assert caught.value.file == str(file) and used(model) == 0
    return caught.value


def test_damage_is_found(path: Path, saved: bytes, tmp_path: Path) -> None:
    rng, file = random.Random(3), tmp_path / "damaged"
    with Model.load(path, threads=1) as model:
        for n in (0, 3, 8, 11, 12, 50, len(saved) - 1, *(rng.randrange(len(saved)) for _ in range(30))):
            refused(model, file, saved[:n])
        for at in (*range(12), *(rng.randrange(len(saved)) for _ in range(60))):
            flipped = bytearray(saved)
            flipped[at] ^= 1 << rng.randrange(8)
            refused(model, file, bytes(flipped))
        refused(model, file, saved + b"\0")
        _, rest = parts(saved)
        first = 4 * 151 + 32
        page = parts(saved)[0]["pages"][0] + 32
        moved = rest[:first] + rest[first + page : first + 2 * page] + rest[first : first + page]
        refused(model, file, saved[: len(saved) - len(rest)] + moved + rest[first + 2 * page :])
        file.write_bytes(saved)
        assert len(model.open_context(file)) == 151


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    8,
    9,
    63,
    64,
    10**6,
    2**31,
    2**63,
    10**40,
    1.5,
    "",
    "x",
    [],
    {},
    [0],
    [[]],
    [1] * 40,
]


def test_hostile_headers(path: Path, saved: bytes, tmp_path: Path) -> None:
    """Their digests are right. Whatever is not refused is a context of this model, which works."""
    rng, file = random.Random(4), tmp_path / "hostile"
    header, rest = parts(saved)
    with Model.load(path, threads=1) as model:
        for text in (b"", b"[]", b"{", b"\xff", b"[" * 100000, b"null", b'{"version": 1}', b'{"version": 1e400}'):
            refused(model, file, whole(text, rest))
        for key in header:
            for value in HOSTILE:
                if value == header[key]:
                    continue
                refused(model, file, whole({**header, key: value}, rest))
            refused(model, file, whole({k: v for k, v in header.items() if k != key}, rest))
        for group in range(len(header["extents"])):
            for at in range(4):
                for value in HOSTILE:
                    changed = json.loads(json.dumps(header))
                    changed["extents"][group][at] = value
                    attempt(model, file, whole(changed, rest))
            for marks in ([1, 1], [2, 1], [0], [151], [152], [-1], list(range(1, 9)), list(range(1, 20)), [2**40]):
                changed = json.loads(json.dumps(header))
                changed["extents"][group][3] = marks
                attempt(model, file, whole(changed, rest))
        for _ in range(100):
            changed = json.loads(json.dumps(header))
            changed["extents"][rng.randrange(len(changed["extents"]))][rng.randrange(3)] = rng.randrange(-3, 200)
            attempt(model, file, whole(changed, rest))


def attempt(model: Model, file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        context = model.open_context(file)
    except ModelFileError:
        assert used(model) == 0
        return
    with context:
        context.generate([1], max_tokens=3, **GREEDY)
        context.rewind(100)
        context.generate([1], max_tokens=2, **GREEDY)


def test_hostile_pages(path: Path, saved: bytes, tmp_path: Path) -> None:
    """Their digests are right. Such a context gives what it gives, or an error of its own; all others go on."""
    rng, file = random.Random(5), tmp_path / "hostile"
    header, rest = parts(saved)
    with Model.load(path, threads=1) as model:
        expected = content(model.generate([1, 2, 3], max_tokens=8, **GREEDY))
        for kind in (b"\0", b"\xff", b"\x7c", None):
            data, at = rest[: 4 * 151 + 32], 4 * 151 + 32
            for place, size in enumerate(header["pages"], 2):
                page = rng.randbytes(size) if kind is None else kind * size
                data += page + hashlib.blake2b(struct.pack("<Q", place) + page, digest_size=32).digest()
                at += size + 32
            assert at == len(rest)
            file.write_bytes(whole(header, data))
            with model.open_context(file) as context:
                try:
                    done = context.generate([1], max_tokens=3, **GREEDY)
                    assert len(done.ids) == 3
                except NumericsError:
                    pass
                context.rewind(0)
            assert content(model.generate([1, 2, 3], max_tokens=8, **GREEDY)) == expected


def test_ids_that_the_model_does_not_have(path: Path, saved: bytes, tmp_path: Path) -> None:
    header, rest = parts(saved)
    with Model.load(path, threads=1) as model:
        for id in (-1, model.core.config.vocab, 2**31 - 1):
            ids = struct.pack("<i", id) + rest[4 : 4 * 151]
            digest = hashlib.blake2b(struct.pack("<Q", 1) + ids, digest_size=32).digest()
            error = refused(model, tmp_path / "ids", whole(header, ids + digest + rest[4 * 151 + 32 :]))
            assert error.field == "ids"


def test_of_another_model(path: Path, saved: bytes, tmp_path: Path) -> None:
    file = tmp_path / "context"
    file.write_bytes(saved)
    with Model.load(path, threads=1, kv="int8") as model:
        assert refused(model, file, saved).field == "model.kv"
    with Model.load(path, threads=1, precision="high") as model:
        assert refused(model, file, saved).field == "model.precision"
    with Model.load(path, threads=1, isa="scalar") as model:
        assert refused(model, file, saved).field == "model.isa"
    with Model.load(path, threads=1) as model, model.edit() as edit:
        edit.skip(1, "mlp")
        assert refused(edit, file, saved).field == "model.plan"
        assert len(model.open_context(file)) == 151
    other = bytearray(path.read_bytes())
    other[-100] ^= 1  # a weight
    changed = tmp_path / "other.gguf"
    changed.write_bytes(other)
    with Model.load(changed, threads=1) as model:
        assert refused(model, file, saved).field in ("model.weights", "model.plan")


def test_limits_and_wrong_arguments(path: Path, saved: bytes, tmp_path: Path) -> None:
    file = tmp_path / "context"
    file.write_bytes(saved)
    with Model.load(path, threads=1, context=100) as model:
        error = refused(model, file, saved)
        assert error.field == "ids" and "151 tokens; expected at most 101, by the context" in str(error)
    with Model.load(path, threads=1, cache_bytes=1000) as model, pytest.raises(OutOfMemoryError):
        model.open_context(file)
    with Model.load(path, threads=1) as model:
        for wrong in (None, 3, b"x"):
            with pytest.raises(TypeError, match="path"):
                model.open_context(wrong)  # type: ignore[arg-type]
        for name in ("", "a\0b"):
            with pytest.raises(ValueError, match="path"):
                model.open_context(name)
        for missing in (tmp_path / "none", tmp_path):
            with pytest.raises(ModelFileError):
                model.open_context(missing)
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ModelFileError, match="this is a FIFO"):  # and nobody waits for what it would bring
            model.open_context(tmp_path / "fifo")
        context = model.open_context(file)
        with pytest.raises(ModelFileError):
            context.save(tmp_path / "no folder" / "file")
        stream = context.stream([1], max_tokens=4)
        next(stream)
        with pytest.raises(ContextBusyError):
            context.save(file)
        stream.close()
    assert file.read_bytes() == saved


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path, file = write("llama_gqa", tmp_path), tmp_path / "saved" / "context"
    file.parent.mkdir()
    code = f"""
from pellucid import Model
with Model.load({str(path)!r}, threads=1) as model:
    context = model.context()
    n = 0
    while True:
        context.append([n % 50] * 20)
        n += 1
        if len(context) > 200:
            context.rewind(20)
        context.save({str(file)!r})
"""
    with Model.load(path, threads=1) as model:
        for i in range(3):
            process = subprocess.Popen([sys.executable, "-c", code])
            before = file.stat().st_mtime_ns if file.exists() else 0
            while not file.exists() or file.stat().st_mtime_ns == before:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.011 * i)
            process.send_signal(signal.SIGKILL)
            process.wait()
            with model.open_context(file) as context:
                assert len(context) % 20 == 0 and len(context) > 0
