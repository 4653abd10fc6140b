"""Files that another program truncates: an error while a model is loaded, no effect afterwards, never SIGBUS.

Each test loads in a process of its own, in which the file is cut at chosen moments: before the n-th read of Python, or
before the engine reads the weights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, weights
from tests.engine import models

BEFORE = """
import json, os, shutil, sys
from pellucid import Model, _engine, errors
path, spare, more = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
def load():
    return Model.load(path, threads=2, context=256)
def failure():
    try:
        load()
    except errors.ModelFileError as e:
        return [e.message, e.file, e.field, e.offset, str(e)]
"""


def run(code: str, path: Path, spare: Path | str = "", more: Any = None) -> Any:
    """The JSON that `code` prints. Defined for it: path, spare, more, load(), failure()."""
    command = [sys.executable, "-c", BEFORE + code, str(path), str(spare), json.dumps(more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture(params=[("narrow", "all"), ("wide", "K"), ("gemma3", "F32")], ids=lambda p: p[0])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return models.write(tmp_path, *request.param)


def spans(path: Path) -> dict[str, tuple[int, int]]:
    with weights.open_model(str(path)) as file:
        return {t.name: (t.offset, t.data.size) for t in file.tensors.values()}


def test_cut_before_the_engine_reads(model: Path) -> None:
    """At the start, the end and within tensors: the error names a truncated tensor, and where its bytes end."""
    code = """
packing, cut = _engine.Engine.pack, 0
class Engine(_engine.Engine):
    def pack(self, *args):
        os.truncate(path, cut)
        super().pack(*args)
_engine.Engine = Engine
out = []
for cut in more:
    shutil.copy(spare, path)
    out.append(failure())
print(json.dumps(out))
"""
    places = spans(model)
    matrices = [span for name, span in places.items() if "norm" not in name]
    first, end = min(matrices)[0], sum(max(matrices))
    middle = (first + end) // 2
    cuts = [0, 10, first, first + 1, middle, middle + 4097, end - 64, end - 1]
    spare = shutil.copy(model, model.parent / "spare")
    for cut, (message, file, field, offset, text) in zip(cuts, run(code, model, spare, cuts), strict=True):
        assert message == "the file ends here" and file == str(model)
        start, size = places[field]
        assert start + size > cut and offset >= max(cut, start), text  # the first of two threads to see it


def test_cut_before_each_read_of_python(model: Path) -> None:
    """Truncated to half of what the read asks for, and to nothing."""
    code = """
real, at, reads = os.preadv, -1, 0
def preadv(fd, buffers, offset):
    global reads
    if reads == at:
        os.truncate(path, more and offset + len(buffers[0]) // 2)
    reads += 1
    return real(fd, buffers, offset)
os.preadv = preadv
shutil.copy(spare, path)
assert failure() is None
n, out = reads, []
for at in range(n):
    shutil.copy(spare, path)
    reads = 0
    out.append(failure())
print(json.dumps(out))
"""
    spare = shutil.copy(model, model.parent / "spare")
    for more in (0, 1):
        failures = run(code, model, spare, more)
        assert len(failures) > 3
        for message, file, field, offset, _ in failures:
            assert message == "the file ends here" and file == str(model)
            assert field and offset is not None


@pytest.mark.parametrize("kind", ["gguf", "folder", "split"])
def test_cut_after_loading(tmp_path: Path, kind: str) -> None:
    """Every file of the model is emptied: the tokens and the model's information stay the same."""
    code = """
model = load()
for folder, _, names in os.walk(more):
    for name in names:
        os.truncate(os.path.join(folder, name), 0)
opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
assert more not in open("/proc/self/maps").read() and not any(name.startswith(more) for name in opened)
model.info(), model.plan(), model.weight("token_embd")
print(json.dumps(model.generate([1, 2, 3], max_tokens=20, temperature=0).ids))
"""
    path = write_as(tmp_path, kind)
    with Model.load(path, threads=1, context=256) as loaded:
        expected = loaded.generate([1, 2, 3], max_tokens=20, temperature=0).ids
    assert run(code, path, more=str(tmp_path.resolve())) == expected


def write_as(folder: Path, kind: str) -> Path:
    """A model with an untied embedding."""
    from tests.reference import tiny

    if kind == "folder":
        return tiny.write_folder(models.NARROW, folder / "model")
    path = models.write(folder, "narrow", "all")
    return path if kind == "gguf" else split(path)


def split(path: Path) -> Path:
    import gguf

    reader = gguf.GGUFReader(path)
    parts = [[t for i, t in enumerate(reader.tensors) if i % 2 == part] for part in range(2)]
    for i, tensors in enumerate(parts):
        writer = gguf.GGUFWriter(path.parent / f"part-{i + 1:05d}-of-00002.gguf", "llama")
        if i == 0:
            for field in reader.fields.values():
                if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                    sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], sub)
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for t in tensors:
            writer.add_tensor(t.name, np.array(t.data), raw_dtype=t.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    path.unlink()
    return path.parent / "part-00001-of-00002.gguf"


def test_cut_by_another_process_at_any_moment(tmp_path: Path) -> None:
    """Whenever it happens, the load ends with the error or with a model."""
    path = models.write(tmp_path, "wide", "K")
    spare = shutil.copy(path, tmp_path / "spare")
    code = """
import random, subprocess
random.seed(1)
cutter = "import os, sys, time; print(flush=True); time.sleep(float(sys.argv[2])); "
cutter += "os.truncate(sys.argv[1], int(sys.argv[3]))"
ended = {"error": 0, "model": 0}
for i in range(20):
    shutil.copy(spare, path)
    delay, left = str(random.random() * 0.02), str(random.randrange(os.path.getsize(path)))
    other = subprocess.Popen([sys.executable, "-S", "-c", cutter, path, delay, left], stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        model = load()
        other.wait()
        model.generate([1, 2], max_tokens=2)
        ended["model"] += 1
    except errors.ModelFileError:
        other.wait()
        ended["error"] += 1
print(json.dumps(ended))
"""
    ended = run(code, path, spare)
    assert sum(ended.values()) == 20
